"""Dataset layouts: each turns a folder or a list into checked scans."""
