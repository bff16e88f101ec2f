package gateway

// WaitSwept returns when the work in the background is done.
func (g *Gateway) WaitSwept() { g.background.Wait() }
