"""Methods of the field, one file each: what they have that RigL does not. `conf/dst/` puts them together."""
