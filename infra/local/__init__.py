"""Real servers as child processes in a data folder, for development and tests: no container engine is needed, only Java
and Maven. In: a folder. Out: running servers and their addresses. Deployment uses the servers' own images."""
