"""Which device runs what: exact plans over devices that differ, from costs that are measured or estimated."""
