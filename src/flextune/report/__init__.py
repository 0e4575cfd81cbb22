"""Report: run directories to a table, figures and a page. Reads files only."""
