"""Which change explains the difference between two sets of tensors."""
