"""Network architectures, one family per folder, with their published names and files. Needs torch only;
nothing here fetches or trains.
"""
