"""Plan, measure, check and write moshi-server configs."""
