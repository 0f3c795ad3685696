"""What `verify` does: both sides are run on the same inputs, and what they gave is compared.

side           what runs a file, and the recording of what comes out
feeds  arrays  what goes in: made up, or of an .npz file
comparing      comparing recordings
"""
