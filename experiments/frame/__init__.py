"""What experiments share: run folders, cells, statistics, endpoints, pages and figures."""
