"""A family of networks as a user of dgflow would add one: a folder with a spec, a module and a file
format."""
