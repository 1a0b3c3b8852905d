"""What defends a merge against updates that are wrong, by accident or on purpose."""
