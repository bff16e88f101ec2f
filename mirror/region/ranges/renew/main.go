// Command renew makes the bundled list of AWS's networks anew, in the directory
// of package ranges: from what AWS publishes, or from a file that has it.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/taskfleet/taskfleet/mirror/region/ranges"
)

const file = "networks.gz"

func main() {
	log.SetFlags(0)
	log.SetPrefix("renew: ")
	from := flag.String("from", "", "an ip-ranges.json instead of "+ranges.URL)
	flag.Parse()
	if err := renew(*from); err != nil {
		log.Fatal(err)
	}
}

func renew(from string) error {
	data, err := read(from)
	if err != nil {
		return err
	}
	l, err := ranges.Parse(data)
	if err != nil {
		return err
	}
	if err := l.Follows(ranges.Bundled()); err != nil {
		return fmt.Errorf("%s is left as it is: the new list does not follow it: %w", file, err)
	}
	var b bytes.Buffer
	if err := l.Pack(&b); err != nil {
		return err
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return err
	}
	log.Printf("%s: %d networks as of %s, %d bytes", file, len(l.Networks), l.Created.Format(time.RFC3339), b.Len())
	return nil
}

func read(from string) ([]byte, error) {
	if from != "" {
		return os.ReadFile(from)
	}
	client := http.Client{Timeout: time.Minute}
	a, err := client.Get(ranges.URL)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", ranges.URL, a.Status)
	}
	return io.ReadAll(io.LimitReader(a.Body, 64<<20))
}
