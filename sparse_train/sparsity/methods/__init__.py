"""Methods of the field, one file each."""
