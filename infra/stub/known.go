package stub

// What the package that the schema is read from does not know, for the attributes that matter here: from the
// documentation of the provider and of the API behind. TestKnown checks that each exists.

// sensitive attributes are hidden in plans.
var sensitive = set(
	"aws_db_instance.password",
	"aws_mq_broker.user.password",
	"aws_mq_broker.ldap_server_metadata.service_account_password",
	"aws_secretsmanager_secret_version.secret_string",
	"aws_secretsmanager_secret_version.secret_binary",
	"aws_ssm_parameter.value",
	"aws_lb_listener.default_action.authenticate_oidc.client_secret",
	"aws_lb_listener_rule.action.authenticate_oidc.client_secret",
	"data.aws_secretsmanager_random_password.random_password",
	"data.aws_secretsmanager_secret_version.secret_string",
	"data.aws_secretsmanager_secret_version.secret_binary",
	"data.aws_ssm_parameter.value",
)

// replacing attributes cannot be changed in place. The region of whatever has one is another.
var replacing = map[string][]string{
	"aws_acm_certificate":                 {"domain_name", "subject_alternative_names", "validation_method", "key_algorithm"},
	"aws_acm_certificate_validation":      {"certificate_arn", "validation_record_fqdns"},
	"aws_appautoscaling_policy":           {"name", "resource_id", "scalable_dimension", "service_namespace"},
	"aws_appautoscaling_target":           {"resource_id", "scalable_dimension", "service_namespace"},
	"aws_budgets_budget":                  {"name"},
	"aws_cloudwatch_dashboard":            {"dashboard_name"},
	"aws_cloudwatch_event_bus":            {"name"},
	"aws_cloudwatch_event_rule":           {"name", "event_bus_name"},
	"aws_cloudwatch_event_target":         {"rule", "event_bus_name", "target_id"},
	"aws_cloudwatch_log_group":            {"name", "name_prefix", "log_group_class"},
	"aws_cloudwatch_metric_alarm":         {"alarm_name"},
	"aws_db_instance":                     {"identifier", "identifier_prefix", "engine", "db_name", "username", "kms_key_id", "storage_encrypted", "availability_zone", "character_set_name", "timezone"},
	"aws_db_parameter_group":              {"name", "name_prefix", "family", "description"},
	"aws_db_subnet_group":                 {"name", "name_prefix"},
	"aws_ecr_repository":                  {"name"},
	"aws_ecs_cluster":                     {"name"},
	"aws_ecs_service":                     {"name", "cluster", "launch_type", "scheduling_strategy"},
	"aws_ecs_task_definition":             {"family", "container_definitions", "cpu", "memory", "network_mode", "requires_compatibilities", "execution_role_arn", "task_role_arn"},
	"aws_egress_only_internet_gateway":    {"vpc_id"},
	"aws_eip":                             {"domain"},
	"aws_flow_log":                        {"vpc_id", "subnet_id", "eni_id", "log_destination", "log_destination_type", "traffic_type", "iam_role_arn", "log_format", "max_aggregation_interval"},
	"aws_iam_instance_profile":            {"name", "name_prefix"},
	"aws_iam_openid_connect_provider":     {"url"},
	"aws_iam_policy":                      {"name", "name_prefix", "path", "description"},
	"aws_iam_role":                        {"name", "name_prefix", "path"},
	"aws_iam_role_policy":                 {"name", "name_prefix", "role"},
	"aws_iam_role_policy_attachment":      {"role", "policy_arn"},
	"aws_instance":                        {"ami", "subnet_id", "availability_zone", "key_name"},
	"aws_kms_alias":                       {"name", "name_prefix"},
	"aws_kms_key":                         {"customer_master_key_spec", "key_usage", "multi_region"},
	"aws_launch_template":                 {"name", "name_prefix"},
	"aws_lb":                              {"name", "name_prefix", "internal", "load_balancer_type"},
	"aws_lb_listener":                     {"load_balancer_arn"},
	"aws_lb_listener_rule":                {"listener_arn"},
	"aws_lb_target_group":                 {"name", "name_prefix", "port", "protocol", "protocol_version", "target_type", "vpc_id"},
	"aws_mq_broker":                       {"broker_name", "deployment_mode", "engine_type", "publicly_accessible", "subnet_ids", "storage_type"},
	"aws_mq_configuration":                {"name", "engine_type"},
	"aws_nat_gateway":                     {"allocation_id", "subnet_id", "connectivity_type"},
	"aws_route":                           {"route_table_id", "destination_cidr_block", "destination_ipv6_cidr_block", "destination_prefix_list_id"},
	"aws_route_table":                     {"vpc_id"},
	"aws_route_table_association":         {"subnet_id", "gateway_id"},
	"aws_route53_record":                  {"zone_id", "name", "type", "set_identifier"},
	"aws_route53_zone":                    {"name"},
	"aws_s3_bucket":                       {"bucket", "bucket_prefix", "object_lock_enabled"},
	"aws_s3_bucket_policy":                {"bucket"},
	"aws_s3_bucket_public_access_block":   {"bucket"},
	"aws_s3_bucket_versioning":            {"bucket"},
	"aws_secretsmanager_secret":           {"name", "name_prefix"},
	"aws_security_group":                  {"name", "name_prefix", "description", "vpc_id"},
	"aws_security_group_rule":             {"security_group_id", "type", "from_port", "to_port", "protocol", "cidr_blocks", "source_security_group_id"},
	"aws_sns_topic":                       {"name", "name_prefix", "fifo_topic"},
	"aws_sns_topic_subscription":          {"topic_arn", "protocol", "endpoint"},
	"aws_sqs_queue":                       {"name", "name_prefix", "fifo_queue"},
	"aws_sqs_queue_policy":                {"queue_url"},
	"aws_subnet":                          {"vpc_id", "cidr_block", "availability_zone", "availability_zone_id"},
	"aws_vpc":                             {"cidr_block", "ipv4_ipam_pool_id"},
	"aws_vpc_endpoint":                    {"vpc_id", "service_name", "vpc_endpoint_type"},
	"aws_vpc_security_group_egress_rule":  {"security_group_id"},
	"aws_vpc_security_group_ingress_rule": {"security_group_id"},
}

func set(names ...string) map[string]bool {
	result := map[string]bool{}
	for _, name := range names {
		result[name] = true
	}
	return result
}
