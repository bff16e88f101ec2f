package gateway

import "time"

// WaitSwept returns when the work in the background is done.
func (g *Gateway) WaitSwept() { g.background.Wait() }

// Patient has gateways give requests five minutes to finish, until it is undone.
func Patient() (undo func()) {
	before := grace
	grace = 5 * time.Minute
	return func() { grace = before }
}
