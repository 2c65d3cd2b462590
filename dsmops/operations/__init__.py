"""Commands that cross packages, as plain functions with plans and reports; nothing here prints."""
