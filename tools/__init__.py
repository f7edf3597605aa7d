"""What is needed to make the project's documents, and by nothing that is installed."""
