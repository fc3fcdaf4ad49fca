"""No cron function at all."""
