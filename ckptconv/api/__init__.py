"""What one may ask of checkpoints, a module for each question; `ckptconv` itself gives what is in them.

Results are data; nothing is printed. A `progress` callback is told the bytes done and the bytes in all. Importing this
package imports none of them: `inspect` does not wait for what only `verify` needs.
"""
