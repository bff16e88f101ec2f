package jsone_test

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/taskfleet/taskfleet/jsone"
)

func decode(text string) (value map[string]any) {
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		panic(err)
	}
	return value
}

func Example() {
	template := decode(`{
		"deadline": {"$fromNow": "2 hours"},
		"payload": {
			"command": ["make", "${target}"],
			"env": {"$merge": [{"CI": "1"}, {"$if": "level >= 3", "then": {"SIGN": "1"}}]}
		}
	}`)
	task, err := jsone.Render(template, map[string]any{
		"target": "release",
		"level":  3.0,
		"now":    "2026-05-04T10:00:00.000Z",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, _ := json.MarshalIndent(task, "", "  ")
	fmt.Println(string(text))
	// Output:
	// {
	//   "deadline": "2026-05-04T12:00:00.000Z",
	//   "payload": {
	//     "command": [
	//       "make",
	//       "release"
	//     ],
	//     "env": {
	//       "CI": "1",
	//       "SIGN": "1"
	//     }
	//   }
	// }
}

func ExampleError() {
	_, err := jsone.Render(decode(`{"payload": {"command": ["make", "${taget}"]}}`), map[string]any{"target": "all"})
	fmt.Println(err)
	if e, ok := errors.AsType[*jsone.Error](err); ok {
		fmt.Println(e.Kind, e.Path)
	}
	// Output:
	// InterpreterError at template.payload.command[1]: unknown context value taget
	// InterpreterError .payload.command[1]
}

func ExampleRenderWith() {
	greedy := decode(`{"$map": {"$eval": "range(0, 10 ** 9)"}, "each(x)": "x"}`)
	_, err := jsone.RenderWith(jsone.Limits{Steps: 10_000}, greedy, nil)
	fmt.Println(err)
	// Output:
	// LimitError: rendering takes more than 10000 steps
}
