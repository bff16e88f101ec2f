package cost

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// res is a resource of a plan; before and after are JSON, "" where it is not there.
type res struct{ address, before, after string }

// planOf is the JSON of a plan in the region of a variable.
func planOf(t testing.TB, list ...res) []byte {
	t.Helper()
	changes := []any{}
	resources := []any{}
	for _, r := range list {
		local := r.address[strings.LastIndex(r.address, "aws_"):]
		kind, name, _ := strings.Cut(local, ".")
		change := map[string]any{"actions": []string{"no-op"}, "before": decoded(t, r.before), "after": decoded(t, r.after), "after_unknown": map[string]any{}}
		module := strings.TrimSuffix(strings.TrimSuffix(r.address, local), ".")
		changes = append(changes, map[string]any{"address": r.address, "module_address": module, "mode": "managed", "type": kind, "name": name, "change": change})
		if module == "" {
			resources = append(resources, map[string]any{
				"address": local, "provider_config_key": "aws", "expressions": map[string]any{"task_definition": map[string]any{"references": []string{"aws_ecs_task_definition.this.arn", "aws_ecs_task_definition.this"}}},
			})
		}
	}
	text, err := json.Marshal(map[string]any{
		"format_version": "1.2", "variables": map[string]any{"region": map[string]any{"value": "us-east-1"}}, "planned_values": map[string]any{}, "resource_changes": changes,
		"configuration": map[string]any{
			"provider_config": map[string]any{"aws": map[string]any{"expressions": map[string]any{"region": map[string]any{"references": []string{"var.region"}}}}},
			"root_module":     map[string]any{"resources": resources},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func decoded(t testing.TB, text string) any {
	t.Helper()
	if text == "" {
		return nil
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func estimated(t testing.TB, a Assumptions, list ...res) *Bill {
	t.Helper()
	b, err := Estimate(planOf(t, list...), a)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Prices in us-east-1 are written out here once more, so that a slip in the table shows.
func TestWhatEachKindOfResourceCosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what    string
		address string
		values  string
		want    float64
	}{
		{"a load balancer in three zones, with a unit of capacity", "aws_lb.a", `{"load_balancer_type": "application", "subnets": ["a", "b", "c"]}`, 730*(0.0225+0.008) + 3*730*0.005},
		{"an internal one", "aws_lb.a", `{"internal": true}`, 730 * (0.0225 + 0.008)},
		{"a network load balancer whose subnets are not known", "aws_lb.a", `{"load_balancer_type": "network"}`, 730*(0.0225+0.006) + 2*730*0.005},
		{"a NAT gateway", "aws_nat_gateway.a", `{}`, 730*0.045 + 200*0.045},
		{"an address", "aws_eip.a", `{}`, 3.65},
		{"an endpoint in two subnets", "aws_vpc_endpoint.a", `{"vpc_endpoint_type": "Interface", "subnet_ids": ["a", "b"]}`, 2*7.30 + 0.50},
		{"a gateway endpoint", "aws_vpc_endpoint.a", `{"vpc_endpoint_type": "Gateway"}`, 0},
		{"flow logs", "aws_flow_log.a", `{"log_destination_type": "cloud-watch-logs"}`, 5},
		{"flow logs to S3", "aws_flow_log.a", `{"log_destination_type": "s3"}`, 2.5},
		{"a database in two zones", "aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.m7g.large", "multi_az": true, "allocated_storage": 100, "storage_type": "gp3"}`, 2*730*0.168 + 2*100*0.115},
		{"a small one with a password in Secrets Manager", "aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.t4g.micro", "allocated_storage": 20, "storage_type": "gp3", "manage_master_user_password": true}`, 11.68 + 2.30 + 0.40},
		{"a cluster of brokers", "aws_mq_broker.a", `{"engine_type": "RabbitMQ", "host_instance_type": "mq.m5.large", "deployment_mode": "CLUSTER_MULTI_AZ"}`, 3*730*0.288 + 3*20*0.10},
		{"a volume", "aws_ebs_volume.a", `{"type": "gp3", "size": 100}`, 8},
		{"a bucket", "aws_s3_bucket.a", `{}`, 500*0.023 + 500*0.005 + 2000*0.0004},
		{"images", "aws_ecr_repository.a", `{}`, 0.5},
		{"a key", "aws_kms_key.a", `{"enable_key_rotation": true}`, 1 + 100*0.03},
		{"a secret", "aws_secretsmanager_secret.a", `{}`, 0.40 + 0.05},
		{"a secret with copies in two other regions", "aws_secretsmanager_secret.a", `{"replica": [{"region": "a"}, {"region": "b"}]}`, 3*0.40 + 0.05},
		{"a large database with the IOPS that it has anyway", "aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.t4g.micro", "allocated_storage": 400, "storage_type": "gp3", "iops": 12000, "storage_throughput": 500}`, 11.68 + 46},
		{"a queue", "aws_sqs_queue.a", `{}`, 1.2},
		{"a queue in order", "aws_sqs_queue.a", `{"fifo_queue": true}`, 1.5},
		{"a topic", "aws_sns_topic.a", `{}`, 0.01}, // half a cent
		{"a log group", "aws_cloudwatch_log_group.a", `{}`, 2.5 + 0.6},
		{"an alarm", "aws_cloudwatch_metric_alarm.a", `{"period": 300}`, 0.1},
		{"an alarm of seconds", "aws_cloudwatch_metric_alarm.a", `{"period": 10}`, 0.3},
		{"an alarm of two metrics", "aws_cloudwatch_metric_alarm.a", `{"metric_query": [{"metric": [{"period": 60}]}, {"metric": [{"period": 60}]}, {"expression": "m1/m2"}]}`, 0.2},
		{"an alarm of alarms", "aws_cloudwatch_composite_alarm.a", `{}`, 0.5},
		{"a dashboard", "aws_cloudwatch_dashboard.a", `{}`, 3},
		{"a zone", "aws_route53_zone.a", `{}`, 0.9},
		{"a firewall with two rules", "aws_wafv2_web_acl.a", `{"rule": [{}, {}]}`, 13},
		{"a role", "aws_iam_role.a", `{}`, 0},
	} {
		b := estimated(t, Assumptions{}, res{c.address, "", c.values})
		if math.Abs(b.After-c.want) > 0.0051 || b.Before != 0 || b.Difference != b.After {
			t.Errorf("%s: %+v, and should be %.2f", c.what, b, c.want)
		}
		if len(b.LeftOut) > 3 && !strings.Contains(c.what, "key") {
			t.Errorf("%s leaves out %q", c.what, b.LeftOut[0])
		}
	}
}

const onFargate = `{"launch_type": "FARGATE", "desired_count": 2, "network_configuration": [{"assign_public_ip": true}]}`

func TestAServiceCostsWhatItsTaskDefinitionSays(t *testing.T) {
	t.Parallel()
	service := res{"aws_ecs_service.this", "", onFargate}
	each := 1*730*0.04048 + 2*730*0.004445 + 730*0.005
	b := estimated(t, Assumptions{}, service, res{"aws_ecs_task_definition.this", "", `{"family": "server", "cpu": "1024", "memory": "2048"}`})
	if math.Abs(b.After-2*each) > 0.01 {
		t.Errorf("$%.2f, and should be $%.2f", b.After, 2*each)
	}
	b = estimated(t, Assumptions{Usage: map[string]float64{"tasks": 5}}, service, res{"aws_ecs_task_definition.this", "", `{"family": "server", "cpu": "1024", "memory": "2048"}`})
	if math.Abs(b.After-5*each) > 0.01 || len(b.Assumptions) != 1 || !b.Assumptions[0].Own {
		t.Errorf("five tasks: %+v", b)
	}
	b = estimated(t, Assumptions{}, service, res{"aws_ecs_task_definition.this", "", `{"family": "server", "cpu": "1 vCPU", "memory": "2gb"}`})
	if math.Abs(b.After-2*each) > 0.01 {
		t.Errorf("with units: $%.2f, and should be $%.2f", b.After, 2*each)
	}
	b = estimated(t, Assumptions{}, service, res{"aws_ecs_task_definition.this", "", `{"family": "server", "memory": "2048"}`})
	if b.After != 0 || !strings.Contains(b.LeftOut[0], "The cpu and the memory are not known") {
		t.Errorf("without a size: %+v", b)
	}
	arm := estimated(t, Assumptions{},
		res{"module.s.aws_ecs_service.this", "", `{"capacity_provider_strategy": [{"capacity_provider": "FARGATE"}], "desired_count": 1, "task_definition": "arn:aws:ecs:eu-central-1:123456789012:task-definition/server:7", "region": "eu-central-1"}`},
		res{"module.s.aws_ecs_task_definition.other", "", `{"family": "other", "cpu": "4096", "memory": "8192", "region": "eu-central-1"}`},
		res{"module.s.aws_ecs_task_definition.this", "", `{"family": "server", "cpu": "1024", "memory": "2048", "region": "eu-central-1", "runtime_platform": [{"cpu_architecture": "ARM64"}], "ephemeral_storage": [{"size_in_gib": 30}]}`},
	)
	if want := 730 * (0.03725 + 2*0.00409 + 10*0.000127); math.Abs(arm.After-want) > 0.01 {
		t.Errorf("$%.2f, and should be $%.2f", arm.After, want)
	}
	for _, c := range []struct{ service, left string }{
		{`{"launch_type": "EC2"}`, "services of ECS on EC2"},
		{`{"capacity_provider_strategy": [{"capacity_provider": "FARGATE_SPOT"}]}`, "services of ECS on FARGATE_SPOT"},
		{onFargate, "The task definition is not known of aws_ecs_service"},
	} {
		b := estimated(t, Assumptions{Region: "us-east-1"}, res{"module.s.aws_ecs_service.this", "", c.service})
		if b.After != 0 || !strings.Contains(b.LeftOut[0], c.left) {
			t.Errorf("%s: %+v", c.left, b.LeftOut)
		}
	}
}

func TestBeforeAndAfterAreToldByModules(t *testing.T) {
	t.Parallel()
	const small, large = `{"engine": "postgres", "instance_class": "db.t4g.medium", "allocated_storage": 0, "region": "us-west-2"}`, `{"engine": "postgres", "instance_class": "db.r7g.large", "multi_az": true, "allocated_storage": 0, "region": "us-west-2"}`
	b := estimated(t, Assumptions{},
		res{"module.database.aws_db_instance.this", small, large},
		res{`module.region["eu.central"].module.network.aws_eip.a`, `{"region": "eu-central-1"}`, ""},
		res{`module.region["eu.central"].module.other.aws_eip.b`, `{"region": "eu-central-1"}`, `{"region": "eu-central-1"}`},
		res{"aws_eip.new", "", `{}`},
	)
	want := []Module{
		{"", 0, 3.65, 3.65},
		{"module.database", 47.45, 348.94, 301.49},
		{`module.region["eu.central"]`, 7.3, 3.65, -3.65},
	}
	if len(b.Modules) != len(want) {
		t.Fatalf("%+v", b.Modules)
	}
	for i := range want {
		if b.Modules[i] != want[i] {
			t.Errorf("%+v, and should be %+v", b.Modules[i], want[i])
		}
	}
	if b.Before != 54.75 || b.After != 356.24 || b.Difference != 301.49 {
		t.Errorf("%v %v %v", b.Before, b.After, b.Difference)
	}
	text := b.Text()
	for _, s := range []string{"(root)", "+$301.49", "-$3.65", "list prices of " + b.PricesAsOf, "Workers: instances"} {
		if !strings.Contains(text, s) {
			t.Errorf("the text lacks %q:\n%s", s, text)
		}
	}
}

// A removed block with destroy = false takes a resource out of the state, and not out of the bill.
func TestWhatIsForgottenGoesOnToCost(t *testing.T) {
	t.Parallel()
	plan := strings.Replace(string(planOf(t, res{"aws_eip.a", `{}`, ""})), `"actions":["no-op"]`, `"actions":["forget"]`, 1)
	b, err := Estimate([]byte(plan), Assumptions{})
	if err != nil || b.Before != 3.65 || b.After != 3.65 || !strings.Contains(strings.Join(b.LeftOut, "\n"), "Terraform forget: they are counted") {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestTheTableFits100Columns(t *testing.T) {
	t.Parallel()
	b := estimated(t, Assumptions{Usage: map[string]float64{"s3_gb": 1e9}}, res{`module.a["` + strings.Repeat("x", 120) + `"].aws_s3_bucket.a`, "", `{"region": "us-east-1"}`}, res{"aws_unheard_of.x", "", `{}`})
	for line := range strings.Lines(b.Text()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > textWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestWhatIsLeftOutIsSaid(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ address, values, want string }{
		{"aws_redshift_cluster.a", `{}`, "No price is known of aws_redshift_cluster (1 resource)"},
		{"aws_eip.a", `{"region": "mars-north-1"}`, "There are no prices of the region mars-north-1 for aws_eip (1 resource)"},
		{"module.a.aws_eip.a", `{}`, "The region is not known of aws_eip; set region in cost.yml (1 resource)"},
		{"aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.x9.huge", "allocated_storage": 20}`, "There is no price rds_postgresql_db.x9.huge_hour in us-east-1; give one in cost.yml, under prices (1 resource)"},
		{"aws_db_instance.a", `{"engine": "mysql"}`, "engine mysql"},
		{"aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.t4g.micro", "storage_type": "io2"}`, "storage io2"},
		{"aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.t4g.micro"}`, "The size is not known of the storage"},
		{"aws_db_instance.a", `{"engine": "postgres", "instance_class": "db.t4g.micro", "allocated_storage": 20, "storage_type": "gp3", "iops": 6000}`, "IOPS and throughput beyond"},
		{"aws_ebs_volume.a", `{"type": "gp3", "size": 10, "throughput": 500}`, "IOPS and throughput beyond"},
		{"aws_mq_broker.a", `{"engine_type": "ActiveMQ"}`, "engine ActiveMQ"},
		{"aws_ebs_volume.a", `{"type": "io2"}`, "volumes of the type io2"},
		{"aws_lb.a", `{"load_balancer_type": "gateway"}`, "load balancers of the type gateway"},
	} {
		b := estimated(t, Assumptions{}, res{c.address, c.values, c.values})
		if !strings.Contains(b.LeftOut[0], c.want) || len(b.LeftOut) != 4 {
			t.Errorf("%q, and should be %q", b.LeftOut, c.want)
		}
	}
}

func TestADeploymentSaysWhatItKnowsBetter(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(directory, File), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := Load(directory); err != nil || a.Region != "" {
		t.Fatalf("without a file: %+v, %v", a, err)
	}
	write(`
region: eu-central-1
usage: {s3_gb: 100, s3_get_thousands: 0, s3_put_thousands: 0}
resources:
- resource: module.artifacts.*
  usage: {s3_gb: 10000}
prices:
  eu-central-1: {s3_standard_gb_month: 0.02, rds_postgresql_db.x9.huge_hour: 1}
`)
	a, err := Load(directory)
	if err != nil {
		t.Fatal(err)
	}
	b := estimated(t, a,
		res{"module.artifacts.aws_s3_bucket.this", "", `{}`},
		res{"module.mirror.aws_s3_bucket.this", "", `{}`},
		res{"module.database.aws_db_instance.this", "", `{"engine": "postgres", "instance_class": "db.x9.huge"}`},
	)
	if b.After != 200+2+730 {
		t.Errorf("%+v", b)
	}
	for text, want := range map[string]string{
		"usage: {s3_gigs: 1}":                              `there is no assumption "s3_gigs"; there are dns_millions,`,
		"usage: {s3_gb: -1}":                               "usage.s3_gb is -1; give a number, 0 or more",
		"usage: {s3_gb: .nan}":                             "usage.s3_gb is NaN",
		"usage: {s3_gb: much}":                             "line 1: cannot unmarshal",
		"usages: {}":                                       "field usages not found",
		"resources: [{usage: {s3_gb: 1}}]":                 "resources[0] names no resource",
		"resources: [{resource: x, usage: {nonsense: 1}}]": "resources[0].usage: there is no assumption",
		"prices: {us-east-1: {nonsense: 1}}":               `there is no price "nonsense"`,
		"prices: {us-east-1: {nat_hour: -1}}":              "prices.us-east-1.nat_hour is -1",
		strings.Repeat("#", maxFile+1):                     "more than 1024 KiB",
	} {
		write(text)
		if _, err := Load(directory); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), File) {
			t.Errorf("%.50s: %v\nshould say %s", text, err, want)
		}
	}
}

func TestWhatIsNoPlanIsNotEstimated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"", "not JSON"},
		{`{"resource_changes": 1}`, "not JSON of terraform"},
		{"{}", "this is no plan"},
		{`{"format_version": "1.0", "values": {}}`, "a state and no plan"},
		{`{"format_version": "1.2", "resource_changes": [], "errored": true}`, "not finished"},
		{strings.Repeat(" ", MaxPlan+1), "at most are read"},
	} {
		if _, err := Estimate([]byte(c.text), Assumptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v\nshould say %s", c.text, err, c.want)
		}
	}
}

// Each region has each price, and nothing costs nothing.
func TestThePriceTableIsWhole(t *testing.T) {
	t.Parallel()
	table, err := prices()
	if err != nil {
		t.Fatal(err)
	}
	if table.AsOf == "" || table.Currency != "USD" || table.Source == "" || table.Note == "" {
		t.Errorf("%+v", table)
	}
	for _, region := range []string{"us-east-1", "us-west-2", "eu-central-1"} {
		for name, price := range table.Regions["us-east-1"] {
			if got := table.Regions[region][name]; got <= 0 || got < price/2 || got > price*2 {
				t.Errorf("%s in %s is %v, and in us-east-1 %v", name, region, got, price)
			}
		}
		if len(table.Regions[region]) != len(table.Regions["us-east-1"]) {
			t.Errorf("%s has %d prices", region, len(table.Regions[region]))
		}
	}
	guide, err := os.ReadFile("../../docs/infra-policies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range known {
		if !strings.Contains(string(guide), "| "+a.Name+" |") {
			t.Errorf("docs/infra-policies.md does not have the assumption %s", a.Name)
		}
	}
}
