"""The alphabet, the mesh, the layouts and the hosts. Imports none of the other packages."""
