"""Features: extracted once, kept, handed to every task that asks."""
