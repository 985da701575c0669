"""From records to tables and figures. Reads what runs left behind; never imports what trains."""
