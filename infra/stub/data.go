package stub

import (
	"cmp"
	"crypto/rand"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// answer gives what a data source tells for its arguments.
func answer(b *tfprotov5.SchemaBlock, kind string, config tftypes.Value, c configuration) (tftypes.Value, error) {
	known := fields(config)
	switch kind {
	case "aws_iam_policy_document":
		arguments, _ := plain(config).(map[string]any)
		long, short, err := policyJSON(arguments)
		if err != nil {
			return config, err
		}
		known["json"], known["minified_json"] = str(long), str(short)
		if known["version"].IsNull() {
			known["version"] = str(policyVersion)
		}
	case "aws_secretsmanager_random_password":
		// It is another one each time that it is asked for.
		length, _ := plain(known["password_length"]).(float64)
		password := ""
		for len(password) < int(cmp.Or(length, 32)) {
			password += rand.Text()
		}
		known["random_password"] = str(password[:int(cmp.Or(length, 32))])
	case "aws_default_tags":
		known["tags"] = tags(c.defaultTags)
	}
	planned := fill(b, "data."+kind, tftypes.NewValue(config.Type(), known), func(path string, a *tfprotov5.SchemaAttribute, v tftypes.Value) tftypes.Value {
		switch {
		case !a.Computed || !v.IsNull():
			return v
		case path == "data."+kind+".region" && a.Optional:
			return str(c.region)
		}
		return tftypes.NewValue(a.Type, tftypes.UnknownValue)
	})
	return invent(b, "data."+kind, fingerprint("data."+kind, c.region, config), planned, c), nil
}
