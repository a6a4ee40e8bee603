"""The `analysis` package: records to tables, figures and a report."""
