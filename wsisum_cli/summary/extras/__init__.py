"""What only some summaries hold or need: the stored pixels as another encoder sees them, a view for notebooks."""
