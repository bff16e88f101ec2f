//go:build !agent

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/taskfleet/taskfleet/hooks"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/timestamp"
)

// openSchedule opens the schedules of a platform, with what is to be shown beside
// the jobs: hooks, and loops that run at times of the day.
func openSchedule(ctx context.Context, data string, conf schedule.Config, hook *hooks.Hooks, loops func() []loop.Status) (_ *schedule.Schedule, err error) {
	if conf.Replica, err = replicaID(data); err != nil {
		return nil, fmt.Errorf("naming this replica: %w", err)
	}
	conf.Others = []schedule.Other{scheduledHooks(hook), scheduledLoops(loops)}
	return schedule.New(ctx, conf)
}

func scheduledHooks(hook *hooks.Hooks) schedule.Other {
	return func(ctx context.Context) (list []schedule.Shown, err error) {
		scheduled, err := hook.Scheduled(ctx, 1000)
		for _, h := range scheduled {
			list = append(list, schedule.Shown{Source: "hook", Name: h.Name, Expressions: h.Schedule, Zone: "UTC", Next: h.Next})
		}
		return list, err
	}
}

func scheduledLoops(loops func() []loop.Status) schedule.Other {
	return func(context.Context) (list []schedule.Shown, err error) {
		for _, l := range loops() {
			text, ok := strings.CutPrefix(l.Schedule, "cron ")
			if !ok {
				continue
			}
			shown := schedule.Shown{Source: "loop", Name: l.Name, Expressions: []string{strings.TrimSuffix(text, " UTC")}, Zone: "UTC"}
			if !l.NextDue.IsZero() {
				shown.Next = timestamp.Of(l.NextDue)
			}
			list = append(list, shown)
		}
		return list, nil
	}
}
