"""The API's views about spend."""
