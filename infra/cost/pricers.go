package cost

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// counter prices one resource.
type counter struct {
	e      *estimator
	change *change
	before bool           // or after
	values map[string]any // then
	region string
	prices map[string]float64
	parts  []Part
}

func (n *counter) cost() (sum float64) {
	for _, p := range n.parts {
		sum += p.Cost
	}
	return cents(sum)
}

// leave says that the resource is left out, wholly or in part. It is counted once, as what it is after the apply.
func (n *counter) leave(what string) {
	if !n.before || n.change.Change.After == nil {
		n.e.without[what]++
	}
}

// add adds a part that the plan tells.
func (n *counter) add(what string, quantity float64, unit, key string) {
	price, ok := n.e.own.Prices[n.region][key]
	if !ok {
		price, ok = n.prices[key]
	}
	if !ok {
		n.leave(fmt.Sprintf("There is no price %s in %s; give one in cost.yml, under prices", key, n.region))
		return
	}
	if quantity > 0 {
		n.parts = append(n.parts, Part{What: what, Quantity: quantity, Unit: unit, Price: price, Cost: math.Round(1e4*quantity*price) / 1e4})
	}
}

// use adds a part that is assumed. times turns what is assumed into units.
func (n *counter) use(what, assumption string, times float64, unit, key string) {
	before := len(n.parts)
	n.add(what, n.assume(assumption)*times, unit, key)
	if len(n.parts) > before {
		n.parts[before].Assumed = true
	}
}

// assume is the value of an assumption for this resource.
func (n *counter) assume(name string) float64 {
	n.e.used[name] = true
	return n.e.own.value(name, n.change.Address)
}

func (n *counter) text(key string) string { s, _ := n.values[key].(string); return s }
func (n *counter) truth(key string) bool  { b, _ := n.values[key].(bool); return b }

// number reads numbers, which some attributes have as text.
func (n *counter) number(key string) float64 {
	switch v := n.values[key].(type) {
	case float64:
		return v
	case string:
		x, _ := strconv.ParseFloat(v, 64)
		return x
	}
	return 0
}

// units reads what has units of 1024 each: "2048", "2 vCPU" or "2 GB". It is 0 where it is neither.
func (n *counter) units(key, unit string) float64 {
	text := strings.ToUpper(strings.TrimSpace(n.text(key)))
	if whole, ok := strings.CutSuffix(text, unit); ok {
		x, _ := strconv.ParseFloat(strings.TrimSpace(whole), 64)
		return 1024 * x
	}
	return n.number(key)
}

func (n *counter) list(key string) []any { l, _ := n.values[key].([]any); return l }

// block is the first block of a name.
func (n *counter) block(key string) map[string]any {
	if l := n.list(key); len(l) > 0 {
		m, _ := l[0].(map[string]any)
		return m
	}
	return nil
}

// lengthOr is how many elements an attribute has, or an assumption where only the apply tells.
func (n *counter) lengthOr(key, assumption string) float64 {
	if l := n.list(key); len(l) > 0 {
		return float64(len(l))
	}
	return n.assume(assumption)
}

var pricers = map[string]func(*counter){
	"aws_alb":                          balancer,
	"aws_lb":                           balancer,
	"aws_nat_gateway":                  gateway,
	"aws_eip":                          func(n *counter) { n.add("public IPv4 address", hours, "hours", "public_ipv4_hour") },
	"aws_vpc_endpoint":                 endpoint,
	"aws_flow_log":                     flowLog,
	"aws_ecs_service":                  service,
	"aws_db_instance":                  database,
	"aws_mq_broker":                    broker,
	"aws_ebs_volume":                   volume,
	"aws_s3_bucket":                    bucket,
	"aws_ecr_repository":               func(n *counter) { n.use("images", "ecr_gb", 1, "GB", "ecr_gb_month") },
	"aws_kms_key":                      key,
	"aws_kms_replica_key":              key,
	"aws_secretsmanager_secret":        secret,
	"aws_sqs_queue":                    queue,
	"aws_sns_topic":                    func(n *counter) { n.use("publishes", "sns_millions", 1, "million", "sns_publish_million") },
	"aws_cloudwatch_log_group":         logGroup,
	"aws_cloudwatch_metric_alarm":      alarm,
	"aws_cloudwatch_composite_alarm":   func(n *counter) { n.add("composite alarm", 1, "alarms", "cloudwatch_composite_alarm_month") },
	"aws_cloudwatch_dashboard":         func(n *counter) { n.add("dashboard", 1, "dashboards", "cloudwatch_dashboard_month") },
	"aws_cloudwatch_log_metric_filter": func(n *counter) { n.add("metric", 1, "metrics", "cloudwatch_metric_month") },
	"aws_route53_zone":                 zone,
	"aws_route53_health_check":         func(n *counter) { n.add("health check", 1, "checks", "route53_health_check_month") },
	"aws_wafv2_web_acl":                firewall,
}

// gratis are types for which AWS takes nothing, or which are paid with another one. One that ends with _ stands for all
// that begin like it.
var gratis = []string{
	"aws_acm_certificate", "aws_acm_certificate_validation", "aws_appautoscaling_", "aws_budgets_budget", "aws_cloudwatch_event_rule", "aws_cloudwatch_event_target",
	"aws_cloudwatch_log_resource_policy", "aws_cloudwatch_log_stream", "aws_cloudwatch_log_subscription_filter", "aws_db_parameter_group", "aws_db_subnet_group",
	"aws_default_network_acl", "aws_default_route_table", "aws_default_security_group", "aws_ebs_default_kms_key", "aws_ebs_encryption_by_default",
	"aws_ebs_snapshot_block_public_access", "aws_ec2_image_block_public_access", "aws_ec2_instance_metadata_defaults", "aws_ec2_tag", "aws_ecr_lifecycle_policy", "aws_ecr_repository_policy",
	"aws_ecs_cluster", "aws_ecs_cluster_capacity_providers", "aws_ecs_task_definition", "aws_egress_only_internet_gateway", "aws_eip_association",
	"aws_iam_", "aws_internet_gateway", "aws_key_pair", "aws_kms_alias", "aws_kms_grant", "aws_kms_key_policy", "aws_launch_template", "aws_lb_listener", "aws_lb_listener_",
	"aws_lb_target_group", "aws_lb_target_group_attachment", "aws_mq_configuration", "aws_network_acl", "aws_network_acl_rule", "aws_placement_group", "aws_route",
	"aws_route53_record", "aws_route_table", "aws_route_table_association", "aws_s3_account_public_access_block", "aws_s3_bucket_", "aws_secretsmanager_secret_", "aws_security_group", "aws_security_group_rule",
	"aws_sns_topic_policy", "aws_sns_topic_subscription", "aws_sqs_queue_", "aws_subnet", "aws_vpc", "aws_vpc_dhcp_options", "aws_vpc_dhcp_options_association",
	"aws_vpc_endpoint_", "aws_vpc_security_group_egress_rule", "aws_vpc_security_group_ingress_rule", "aws_wafv2_ip_set", "aws_wafv2_web_acl_association",
}

func free(kind string) bool {
	return slices.ContainsFunc(gratis, func(g string) bool { return kind == g || strings.HasSuffix(g, "_") && strings.HasPrefix(kind, g) })
}

func balancer(n *counter) {
	kind := "alb"
	switch n.text("load_balancer_type") {
	case "network":
		kind = "nlb"
	case "gateway":
		n.leave("No price is known of load balancers of the type gateway")
		return
	}
	n.add("load balancer", hours, "hours", kind+"_hour")
	n.use("capacity units (LCU)", "lb_lcu", hours, "LCU hours", kind+"_lcu_hour")
	if !n.truth("internal") {
		zones := n.lengthOr("subnets", "zones")
		if mapped := len(n.list("subnet_mapping")); mapped > 0 {
			zones = float64(mapped)
		}
		n.add("public IPv4 addresses", zones*hours, "hours", "public_ipv4_hour")
	}
}

func gateway(n *counter) {
	n.add("NAT gateway", hours, "hours", "nat_hour")
	n.use("data", "nat_gb", 1, "GB", "nat_gb")
}

func endpoint(n *counter) {
	if n.text("vpc_endpoint_type") != "Interface" {
		return // gateways to S3 and DynamoDB are free
	}
	n.add("endpoint", n.lengthOr("subnet_ids", "zones")*hours, "hours", "endpoint_hour")
	n.use("data", "endpoint_gb", 1, "GB", "endpoint_gb")
}

func flowLog(n *counter) {
	where := "logs_vended_gb"
	if n.text("log_destination_type") == "s3" {
		where = "logs_vended_s3_gb"
	}
	n.use("flow logs", "flow_logs_gb", 1, "GB", where)
}

// service prices the tasks of a service on Fargate, whose size is in the task definition.
func service(n *counter) {
	kind := n.text("launch_type")
	for _, s := range n.list("capacity_provider_strategy") {
		if m, ok := s.(map[string]any); ok {
			kind = cmp.Or(fmt.Sprint(m["capacity_provider"]), kind)
		}
	}
	if kind != "FARGATE" {
		n.leave("No price is known of services of ECS on " + cmp.Or(kind, "EC2"))
		return
	}
	definition := n.definition()
	if definition == nil {
		n.leave("The task definition is not known of aws_ecs_service")
		return
	}
	tasks := n.number("desired_count")
	if own, given := n.e.own.given("tasks", n.change.Address); given {
		tasks = own
		n.e.used["tasks"] = true
	} else if _, known := n.values["desired_count"].(float64); !known {
		tasks = n.assume("tasks")
	}
	d := counter{values: definition}
	cpu, memory := d.units("cpu", "VCPU"), d.units("memory", "GB")
	if cpu == 0 || memory == 0 {
		n.leave("The cpu and the memory are not known of the task definition of aws_ecs_service")
		return
	}
	prefix := "fargate"
	if platform := d.block("runtime_platform"); platform["cpu_architecture"] == "ARM64" {
		prefix = "fargate_arm"
	}
	n.add("vCPU", tasks*cpu/1024*hours, "vCPU hours", prefix+"_vcpu_hour")
	n.add("memory", tasks*memory/1024*hours, "GB hours", prefix+"_gb_hour")
	if size, ok := d.block("ephemeral_storage")["size_in_gib"].(float64); ok && size > 20 {
		n.add("storage", tasks*(size-20)*hours, "GB hours", "fargate_storage_gb_hour")
	}
	if network := n.block("network_configuration"); network["assign_public_ip"] == true {
		n.add("public IPv4 addresses", tasks*hours, "hours", "public_ipv4_hour")
	}
}

// definition is the task definition that a service names: by its ARN or family, or by a reference in the same module.
func (n *counter) definition() map[string]any {
	named := n.text("task_definition")
	references := n.e.declared[static(n.change.Address)].references["task_definition"]
	for i := range n.e.plan.ResourceChanges {
		c := &n.e.plan.ResourceChanges[i]
		values := c.Change.After
		if n.before {
			values = c.Change.Before
		}
		if c.Type != "aws_ecs_task_definition" || c.Mode != "managed" || values == nil {
			continue
		}
		family, _ := values["family"].(string)
		arn, _ := values["arn"].(string)
		byName := named != "" && (named == arn || named == family || strings.HasPrefix(named, family+":") || strings.Contains(named, "/"+family+":"))
		byReference := c.ModuleAddress == n.change.ModuleAddress && slices.Contains(references, c.Type+"."+c.Name) &&
			(c.Index == nil || n.change.Index == nil || c.Index == n.change.Index)
		if byName || byReference {
			return values
		}
	}
	return nil
}

func database(n *counter) {
	engine, class := n.text("engine"), n.text("instance_class")
	if engine != "postgres" {
		n.leave("No price is known of databases with the engine " + cmp.Or(engine, "that only the apply tells"))
		return
	}
	// The price list has twice the price for a standby in a second zone, for instances and for storage.
	copies, where := 1.0, ""
	if n.truth("multi_az") {
		copies, where = 2, ", two zones"
	}
	n.add(class+where, copies*hours, "hours", "rds_postgresql_"+class+"_hour")
	switch kind := cmp.Or(n.text("storage_type"), "gp2"); kind {
	case "gp2", "gp3":
		if _, known := n.values["allocated_storage"].(float64); !known {
			n.leave("The size is not known of the storage of aws_db_instance")
		}
		// From 400 GB on, a volume of PostgreSQL is four, with four times the performance.
		if included := map[bool]float64{false: 1, true: 4}[n.number("allocated_storage") >= 400]; kind == "gp3" && (n.number("iops") > 3000*included || n.number("storage_throughput") > 125*included) {
			n.leave("No price is known of IOPS and throughput beyond what storage gp3 has, of aws_db_instance")
		}
		n.add("storage "+kind+where, copies*n.number("allocated_storage"), "GB", "rds_"+kind+"_gb_month")
	default:
		n.leave("No price is known of storage " + kind + " of databases")
	}
	n.use("backups beyond the size of the database", "rds_backup_gb", 1, "GB", "rds_backup_gb_month")
	if n.truth("manage_master_user_password") {
		n.add("secret", 1, "secrets", "secret_month")
	}
	if n.truth("performance_insights_enabled") && n.number("performance_insights_retention_period") > 7 {
		n.leave("No price is known of Performance Insights for longer than 7 days")
	}
}

func broker(n *counter) {
	if engine := n.text("engine_type"); !strings.EqualFold(engine, "RabbitMQ") {
		n.leave("No price is known of brokers with the engine " + engine)
		return
	}
	class, nodes := n.text("host_instance_type"), 1.0
	if n.text("deployment_mode") == "CLUSTER_MULTI_AZ" {
		nodes = 3
	}
	n.add(fmt.Sprintf("%s, %.0f of them", class, nodes), nodes*hours, "hours", "mq_rabbitmq_"+class+"_hour")
	n.use("storage", "mq_storage_gb", nodes, "GB", "mq_rabbitmq_storage_gb_month")
}

func volume(n *counter) {
	if kind := n.text("type"); kind != "gp3" {
		n.leave("No price is known of volumes of the type " + cmp.Or(kind, "that AWS chooses"))
		return
	}
	if n.number("iops") > 3000 || n.number("throughput") > 125 {
		n.leave("No price is known of IOPS and throughput beyond what gp3 has, of aws_ebs_volume")
	}
	n.add("volume gp3", n.number("size"), "GB", "ebs_gp3_gb_month")
}

func bucket(n *counter) {
	n.use("storage", "s3_gb", 1, "GB", "s3_standard_gb_month")
	n.use("requests that write", "s3_put_thousands", 1, "thousand", "s3_put_1k")
	n.use("requests that read", "s3_get_thousands", 1, "thousand", "s3_get_1k")
}

func key(n *counter) {
	n.add("key", 1, "keys", "kms_key_month")
	n.use("requests", "kms_requests", 1.0/10_000, "10,000", "kms_requests_10k")
	if n.truth("enable_key_rotation") {
		n.e.notes["Rotated keys: the first two rotations of a key add $1 a month each."] = true
	}
}

func secret(n *counter) {
	n.add("secret", 1+float64(len(n.list("replica"))), "secrets", "secret_month") // copies in other regions cost the same
	n.use("requests", "secret_requests", 1.0/10_000, "10,000", "secret_requests_10k")
}

func queue(n *counter) {
	kind := "sqs_standard_million"
	if n.truth("fifo_queue") {
		kind = "sqs_fifo_million"
	}
	n.use("requests", "sqs_millions", 1, "million", kind)
}

func logGroup(n *counter) {
	n.use("logs that come in", "logs_gb", 1, "GB", "logs_ingest_gb")
	n.use("logs that are kept", "logs_kept_gb", 1, "GB", "logs_storage_gb_month")
}

// alarm prices an alarm by the metrics that it looks at.
func alarm(n *counter) {
	metrics, period := 1.0, n.number("period")
	if queries := n.list("metric_query"); len(queries) > 0 {
		metrics = 0
		for _, q := range queries {
			m, _ := q.(map[string]any)
			if inner, _ := m["metric"].([]any); len(inner) > 0 {
				metrics++
				if first, _ := inner[0].(map[string]any); first != nil {
					if p, ok := first["period"].(float64); ok {
						period = p
					}
				}
			}
		}
	}
	if period > 0 && period < 60 {
		n.add("alarm with high resolution", max(metrics, 1), "metrics", "cloudwatch_alarm_fast_month")
		return
	}
	n.add("alarm", max(metrics, 1), "metrics", "cloudwatch_alarm_month")
}

func zone(n *counter) {
	n.add("zone", 1, "zones", "route53_zone_month")
	n.use("queries", "dns_millions", 1, "million", "route53_queries_million")
}

func firewall(n *counter) {
	n.add("web ACL", 1, "ACLs", "waf_acl_month")
	n.add("rules", float64(len(n.list("rule"))), "rules", "waf_rule_month")
	n.use("requests", "waf_millions", 1, "million", "waf_requests_million")
}
