package awsfake

import "maps"

// Stats count what happened since the cloud was made.
type Stats struct {
	// Calls by "service:Action", all of them. Throttled are those that ended
	// with RequestLimitExceeded, and fleets' parts that did; Failed are those
	// that ended with any error.
	Calls, Throttled, Failed map[string]int
	// Errors by their code, of calls (not of a fleet's parts).
	Errors map[string]int
	// Instances launched, and interrupted by AWS.
	Launched, Interrupted int
}

func (s *Stats) init() {
	s.Calls, s.Throttled, s.Failed, s.Errors = map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
}

func (s *Stats) failed(name, code string) {
	s.Failed[name]++
	s.Errors[code]++
	if code == "RequestLimitExceeded" {
		s.Throttled[name]++
	}
}

// Stats are the counts so far.
func (c *Cloud) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Calls, s.Throttled, s.Failed, s.Errors = maps.Clone(s.Calls), maps.Clone(s.Throttled), maps.Clone(s.Failed), maps.Clone(s.Errors)
	return s
}

// Bill is what all instances cost until now.
type Bill struct {
	Hours   float64 // billed instance-hours
	Dollars float64 // at each instance's price when it was launched
}

// Bill adds up what was launched, by Instance.Billed.
func (c *Cloud) Bill() Bill {
	c.enter()
	defer c.leave()
	var b Bill
	for _, i := range c.records {
		hours := Instance{Requested: i.requested, Stopping: i.stopping}.Billed(c.now).Hours()
		b.Hours += hours
		b.Dollars += hours * i.price
	}
	return b
}

// Alive counts the instances that run or will, in all accounts and regions.
func (c *Cloud) Alive() int {
	c.enter()
	defer c.leave()
	n := 0
	for _, a := range c.order {
		for _, r := range a.regions {
			for _, i := range r.live {
				if i.alive() {
					n++
				}
			}
		}
	}
	return n
}
