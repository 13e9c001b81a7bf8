"""What keeps the repository in order: pages made from the code, and the recipes of the stages."""
