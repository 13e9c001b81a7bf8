"""What several tests use: tiny models, small workspaces, fakes, servers."""
