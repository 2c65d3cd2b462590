"""What each result looks like to people: functions from a report value to blocks of text."""
