"""What ``fl-client doctor`` looks at. One file a part of the silo; each check returns what it found."""
