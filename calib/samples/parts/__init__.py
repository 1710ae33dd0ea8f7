"""What a Parquet file of samples is: its schema, the gate it is read through, files in progress."""
