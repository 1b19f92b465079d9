"""What has been measured, as JSON, as a page and as charts."""
