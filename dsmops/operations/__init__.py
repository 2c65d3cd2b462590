"""Commands that cross rooms, as plain functions with plans and reports; nothing here prints."""
