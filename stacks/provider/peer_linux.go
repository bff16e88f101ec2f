package provider

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// sockets is the kernel's table of them.
const sockets = "/proc/net/tcp"

// errNoSocket is that a socket is not there, or that it was missed: the table changes while it is read.
var errNoSocket = errors.New("the socket is not in " + sockets)

// mine is nil if the socket of this machine at a local address, connected to the remote one (nil: to none), belongs to the user
// that runs this process.
func mine(local, remote net.Addr) (err error) {
	for range 3 {
		if err = owned(local, remote); !errors.Is(err, errNoSocket) {
			break
		}
	}
	return err
}

// owned looks once.
func owned(local, remote net.Addr) error {
	table, err := os.Open(sockets)
	if err != nil {
		return err
	}
	defer table.Close()
	want := [2]string{spellAddress(local), spellAddress(remote)}
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid ...
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[1] != want[0] || f[2] != want[1] {
			continue
		}
		if f[7] != strconv.Itoa(os.Geteuid()) {
			return fmt.Errorf("the socket %s belongs to the user %s", local, f[7])
		}
		return nil
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errNoSocket
}

// spellAddress is an IPv4 address as in the table: the bytes as a number of the machine, and the port.
func spellAddress(a net.Addr) string {
	var ip [4]byte
	var port int
	if tcp, ok := a.(*net.TCPAddr); ok {
		copy(ip[:], tcp.IP.To4())
		port = tcp.Port
	}
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), port)
}
