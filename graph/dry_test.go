package graph

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
)

func TestDry(t *testing.T) {
	for _, d := range []string{"hello", "fan", "trouble", "self"} {
		if _, err := os.Stat("../examples/" + d + "/graph.yml"); err != nil {
			continue
		}
		g, err := Load("../examples/"+d, Options{})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(d, len(g.Tasks))
		if len(g.Tasks) < 30 {
			for _, x := range g.Tasks {
				fmt.Println(x.Label, x.Dependencies)
				b, _ := json.Marshal(x.Definition)
				fmt.Println("  ", string(b))
			}
		}
	}
	p, err := LoadPool("../examples/pool.yml", Options{})
	fmt.Println(err)
	if err == nil {
		b, _ := json.MarshalIndent(p.Definition, "", " ")
		fmt.Println(string(b))
	}
}
