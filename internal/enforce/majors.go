package enforce

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// rawDrivers are the character devices that pass commands to disks or are their memory, of those whose majors
// the kernel chooses: include/linux/bsg.h, drivers/nvme, drivers/mtd, drivers/dax and controllers of disks.
var rawDrivers = map[string]bool{
	"bsg": true, "nvme": true, "nvme-generic": true, "mtd": true, "dax": true, "aac": true, "megaraid_sas_ioctl": true, "mpi3mr": true,
}

// rawMajors returns bl_raw_majors: the majors that rawDrivers have here, one bit each. A driver that is loaded
// later counts when an agent starts the next time.
func rawMajors() ([8]uint64, error) {
	f, err := os.Open("/proc/devices")
	if err != nil {
		return [8]uint64{}, fmt.Errorf("find the devices of disks: %w", err)
	}
	defer f.Close()
	return parseMajors(f)
}

func parseMajors(r io.Reader) (bits [8]uint64, err error) {
	sc := bufio.NewScanner(r)
	for sc.Scan() && sc.Text() != "Block devices:" {
		major, name, _ := strings.Cut(strings.TrimSpace(sc.Text()), " ")
		n, err := strconv.ParseUint(major, 10, 32)
		if err == nil && rawDrivers[name] && n < 512 {
			bits[n/64] |= 1 << (n % 64)
		}
	}
	if err := sc.Err(); err != nil {
		return bits, fmt.Errorf("/proc/devices: %w", err)
	}
	return bits, nil
}
