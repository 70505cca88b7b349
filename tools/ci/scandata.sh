# scandata.sh: where real records and images are, as testneed.ScanDataDir has it. Sourced, from the top of the tree.
scan_data=${BELAY_SCAN_DATA:-$(dirname "$PWD")/shared/data/feeds}
