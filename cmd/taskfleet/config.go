//go:build !agent

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Config is how a platform is set up. It comes from, in rising order of
// precedence: defaults, a YAML file, TASKFLEET_* environment variables, flags.
type Config struct {
	Data     string `yaml:"data"`     // directory of everything that is not elsewhere
	Listen   string `yaml:"listen"`   // host:port of the API
	RootURL  string `yaml:"rootUrl"`  // how clients and workers reach it
	Database string `yaml:"database"` // sqlite:PATH or postgres://…

	SecretsFile string `yaml:"secretsFile"` // that replicas share; "" for DATA/secrets.json

	SealKeysFile string `yaml:"sealKeysFile"` // instead of those in the file of secrets

	Clients []ClientConfig `yaml:"clients"` // static ones

	S3 S3Config `yaml:"s3"`

	Mirror *MirrorConfig `yaml:"mirror"` // copies of artifacts in other regions

	Credentials []CredentialConfig `yaml:"credentials"` // that are rotated

	CredentialsAudit CredentialsAuditConfig `yaml:"credentialsAudit"` // what may be wrong with them, with clients and scopes

	Infra InfraConfig `yaml:"infra"` // deployments that are looked at on schedule

	Providers map[string]ProviderConfig `yaml:"providers"` // of workers, beside local and static

	RabbitMQ RabbitMQConfig `yaml:"rabbitmq"` // where messages go besides

	Sentry SentryConfig `yaml:"sentry"` // where the platform's own errors go

	Auth   AuthConfig   `yaml:"auth"`   // credentials for elsewhere
	Notify NotifyConfig `yaml:"notify"` // email and chats

	MetricsToken string `yaml:"metricsToken"` // bearer token of /metrics

	LogLevel  string `yaml:"logLevel"`  // debug, info, warn, error
	LogFormat string `yaml:"logFormat"` // text, json

	databaseFile string // where Database was read from, and changes

	file  string // where it was read from
	text  []byte
	parts []configPart // of a directory, instead of the text
}

// A configPart is one file of a directory of configuration.
type configPart struct {
	file string
	text []byte
}

// ClientConfig is a static client: one that is there whatever the database
// holds, and that nobody can change by the API.
type ClientConfig struct {
	ClientID    string   `yaml:"clientId"`
	AccessToken string   `yaml:"accessToken"`
	Description string   `yaml:"description"`
	Scopes      []string `yaml:"scopes"`
}

// S3Config is where artifacts are kept. Without an endpoint and a region the
// platform runs an S3 gateway of its own on the data directory.
type S3Config struct {
	Endpoint        string `yaml:"endpoint"`
	Region          string `yaml:"region"`
	Bucket          string `yaml:"bucket"`
	AccessKeyID     string `yaml:"accessKeyId"`
	SecretAccessKey string `yaml:"secretAccessKey"`
	KeyFile         string `yaml:"keyFile"`
	PathStyle       bool   `yaml:"pathStyle"`
}

func (s S3Config) embedded() bool { return s.Endpoint == "" && s.Region == "" }

const configDoc = `A configuration file is YAML; every entry may be left out. Instead of a file, --config may name a directory: all files *.yml in
it are read, and each entry at the top is in one of them.

  data: .taskfleet                  # database, artifacts, logs, credentials
  listen: 127.0.0.1:8080
  rootUrl: https://tasks.example.com  # default: http:// and the listen address
  database: postgres://user:password@host/name   # default: sqlite:DATA/taskfleet.db; file:PATH: a file with the URL, read again when it changes
  secretsFile: /etc/taskfleet/secrets.json       # default: DATA/secrets.json; replicas share one, see taskfleet config secrets
  sealKeysFile: /etc/taskfleet/seal-keys         # default: in the file of secrets; one key a line, plain or wrapped by AWS KMS
  clients:                          # static clients, beside those that the API makes
    - clientId: static/tools        # begins with static/, and is none of the platform's own, static/taskcluster/…
      accessToken: …                # 22 characters or more
      scopes: ["queue:*"]
      description: …
  s3:                               # default: a gateway inside the process, on DATA/s3
    region: eu-central-1
    endpoint: https://s3.example.com  # default: AWS
    bucket: taskfleet-artifacts
    accessKeyId: …                  # default: what the AWS SDK finds by itself
    secretAccessKey: …
    keyFile: /run/taskfleet/s3.json # instead: JSON with accessKeyId and secretAccessKey, read again when it changes
    pathStyle: false
  mirror:                           # copies of artifacts near the workers that read them; default: none
    home: us-west-2                 # the region of s3.bucket; default: s3.region
    regions:                        # where copies are kept, and where clients are that get them
    - name: eu-central-1
      region: eu-central-1          # of S3; default: the name
      bucket: taskfleet-copies-eu   # its own, which nothing else is kept in; with the gateway inside the process the name of the region does
      endpoint: https://s3.example.com  # default: AWS
      pathStyle: false
      accessKeyId: …                # default: those of s3; with the same key, S3 copies from bucket to bucket by itself
      secretAccessKey: …
      maxBytes: 500 GiB             # beyond which those go that were not read for longest; default: no limit
      transfers: 16                 # at a time, of each replica
    networks: {10.1.0.0/16: eu-central-1}   # where callers are, beside AWS's networks and by worker group
    trustedProxies: [10.0.0.0/24]   # balancers, whose X-Forwarded-For is believed; default: none
    ipRanges: none                  # no daily look for AWS's networks; default: AWS's URL of them. An URL: a mirror of it
    allow: ["https://archive.example.com/pub/"]   # what else is copied: scheme, host and path; * is one segment, ** are several
    allowAddresses: [10.20.0.0/16]  # where that may be, though it is not public
    lifespan: 24h                   # of copies of that; those of artifacts expire with them
    routes:                         # the first that fits counts; what none fits is waited for, for 28s
    - name: toolchains
      taskQueue: proj/build-*       # of the task that made the artifact; * is any text
      artifact: public/build/*      # its name; or else:
      url: https://archive.example.com/*
      minSize: 1 MiB
      maxSize: 50 GiB
      regions: [eu-central-1]       # default: all
      policy: wait                  # for the copy; redirect: to the origin, and copy behind; stream: the bytes while they are stored; off
      maxWait: 28s                  # then the origin it is
      ahead: true                   # copy when the run has ended, before anybody asks
      prefetch: true                # copy when a task becomes pending that depends on the artifact's, to where its workers are
  credentials:                      # that are rotated; docs/credentials.md has the kinds; default: none
  - name: build-database
    kind: postgres                  # or one of the others there
    settings: {url: "postgres://rotator:…@db.example.com/builds", roles: [builds_a, builds_b], memberOf: [builds]}
    cron: "0 4 * * 1"               # when it is rotated; and whenever it gets older than
    zone: Europe/Berlin             # of cron; default: UTC
    maxAge: 30d
    jitter: 1h                      # how much later it may begin; default: 0
    overlap: 24h                    # for which the old version stays, unless all consumers have confirmed the new one
    quiet: 1h                       # for which the old version was not seen in use before it goes
    grace: 1h                       # between disabling and removing it
    consumers:
    - {name: app, secret: project/builds/database}            # a secret of this platform
    - {name: proxy, file: /etc/proxy/password, member: password}   # a file on every replica; without member: all of it, as JSON; mode: "0640"
    - {name: reload, command: [/usr/local/bin/reload-proxy]}  # run on every replica; it gets the version on stdin
    - {name: grafana, must: true}   # says by the API that it has it, and is waited for however long that takes
  credentialsAudit:                 # what taskfleet credentials audit looks for where it is not told
    cron: "0 5 * * *"               # when there is one that nobody asks for; default: never
    zone: Europe/Berlin             # of cron; default: UTC
    tokenAge: 90d                   # how old access tokens may get
    unused: 90d                     # for how long clients, credentials and scopes may not be used
    hours: 24                       # how far the logs of tasks go back that are searched for secrets
    maxBytes: 10 GiB                # how much of them, the latest first
    exceptions:                     # what is known and accepted, and does not count
    - {name: deploy, finding: "client-never-expires client deploy/*", reason: the key ceremony is in June, until: "2027-06-30"}   # the last day
  infra:                            # deployments of taskfleet infra that are looked at; docs/infra-verify.md
    email: [ops@example.com]        # who is told of what is found; Sentry is told too
    deployments:
    - name: prod
      directory: /srv/infra/prod    # on every replica, with terraform or tofu on PATH, and AWS credentials that may read
      drift: "0 6 * * *"            # when taskfleet infra drift is done; default: never
      verify: "30 6 * * *"          # when taskfleet infra verify is done; default: never
      zone: Europe/Berlin           # of both; default: UTC
      terraform: /usr/local/bin/tofu            # instead of the one on PATH
      varFiles: [/etc/taskfleet/prod.tfvars]    # with values of variables
  providers:                        # of workers, by the providerId that pools name; local and static are always there
    aws:
      type: aws
      cluster: production           # marks what this provider makes: no two that see each other may have the same
      regions: [us-east-1, us-west-2]
      accounts:                     # the first is that of pools which name none
      - id: "123456789012"
        role: arn:aws:iam::123456789012:role/taskfleet   # default: the credentials that the AWS SDK finds by itself
        externalId: …
        queues: {us-east-1: "https://sqs.…"}   # with the EC2 events of EventBridge; default: none, changes are seen each minute
      instanceProfiles: [worker]    # that pools may give to their instances; default: none
      requests: 0.7                 # share of AWS's limits on requests to use
      identityCertificates: {}      # PEM by region, for regions that are newer than this program
  rabbitmq:                         # a broker that gets every message; default: none, messages are read at /api/events
    url: amqps://user:password@mq.example.com/%2f
    urlFile: /run/taskfleet/rabbitmq  # instead: a file with the URL, read again when it changes
    namespace: taskcluster-builds   # instead of taskcluster-queue and so on in the exchanges' names, on a shared broker
  sentry:                           # where the platform's own errors go; default: to the log alone
    dsn: https://…@sentry.example.com/1
    dsnFile: /run/taskfleet/sentry  # instead: a file with the DSN, read again when it changes
    project: taskfleet              # instead: the platform asks its own service auth for the DSN of that project
    environment: production
    serverName: …                   # default: the name of the machine
    rate: 60                        # events a minute that a process sends at most
  auth:                             # credentials for elsewhere that the service auth gives to those with the scopes
    aws: {keys: [{accessKeyId: …, secretAccessKey: …, buckets: [builds]}]}   # awsS3Credentials, by STS
    azure: {accounts: {mystorage: {key: …}}}                                 # azureTableSAS, azureContainerSAS
    gcp: {projects: {my-project: {key: '{"type":"service_account",…}', serviceAccounts: [builder@…]}}}
    github: {apps: {my-app: {appId: "12345", privateKey: "-----BEGIN…"}}}    # githubRepoToken
    sentry:                         # sentryDSN, and credentials of the kind sentry-key; docs/credentials.md has the permissions
      url: https://sentry.example.com   # default: https://sentry.io
      organization: acme
      token: …                      # or in TASKFLEET_SENTRY_TOKEN
      tokenFile: /run/taskfleet/sentry-token   # instead: a file with the token, read again when it changes
      initialTeam: builds           # of projects that are created because somebody asks for their DSN; it is created, too
      keyPrefix: taskfleet          # of the labels of keys, up to 9 characters
      platform: go                  # of those projects; default: none
      rateLimit: {count: 1000, window: 60}     # of keys: events in so many seconds; default: none
      alertEvery: 30m               # an email to the team when an issue is new or back; default: the alert that Sentry makes
    signalfx:                       # where projects get teams, dashboard groups and tokens: taskfleet credentials bootstrap
      realm: eu0
      token: …                      # of an administrator's session; or in TASKFLEET_SIGNALFX_TOKEN, or tokenFile
    websocktunnel: {secret: …}      # that the tunnel's servers know too
  notify:                           # how people are told; what is left out is refused
    smtp: {host: smtp.example.com, username: …, password: …, from: "Taskfleet <taskfleet@example.com>"}  # port, security, ca
    ses: {region: eu-central-1, from: …}                                     # instead of smtp
    slack: {token: xoxb-…}
    matrix: {url: "https://matrix.example.com", accessToken: …}
    emailLimit: 50                  # emails to an address in ten minutes
  metricsToken: …                   # bearer token of /metrics; needed unless listen is a loopback address
  logLevel: info                    # debug, info, warn, error
  logFormat: text                   # text, json

The same from the environment: TASKFLEET_DATA, TASKFLEET_LISTEN, TASKFLEET_ROOT_URL, TASKFLEET_DATABASE, TASKFLEET_SECRETS_FILE,
TASKFLEET_S3_ENDPOINT, _REGION, _BUCKET, _ACCESS_KEY_ID, _SECRET_ACCESS_KEY, _PATH_STYLE, TASKFLEET_RABBITMQ_URL, TASKFLEET_METRICS_TOKEN,
TASKFLEET_LOG_LEVEL, TASKFLEET_LOG_FORMAT. Flags win over the environment, the environment over the file.`

func defaultConfig() Config {
	return Config{
		Data: defaultData, Listen: "127.0.0.1:8080", LogLevel: "info", LogFormat: "text",
		S3: S3Config{Bucket: "artifacts"},
	}
}

// configFlags are the flags of the commands that start a platform. Their
// values count only where they were given.
type configFlags struct {
	file   string
	values Config
	set    *pflag.FlagSet
}

func (f *configFlags) add(set *pflag.FlagSet) {
	d := defaultConfig()
	f.set = set
	set.StringVar(&f.file, "config", "", "configuration file, or directory of files *.yml (see taskfleet config --help)")
	set.StringVar(&f.values.Data, "data", d.Data, "directory for database, artifacts, logs and credentials")
	set.StringVar(&f.values.Listen, "listen", d.Listen, "address of the API, host:port; port 0 takes a free one")
	set.StringVar(&f.values.RootURL, "root-url", "", "how clients reach the API (default http://LISTEN)")
	set.StringVar(&f.values.Database, "database", "", "sqlite:PATH or postgres://… (default sqlite:DATA/taskfleet.db)")
	set.StringVar(&f.values.LogLevel, "log-level", d.LogLevel, "debug, info, warn or error")
	set.StringVar(&f.values.LogFormat, "log-format", d.LogFormat, "text or json")
}

// load puts the configuration together and checks it.
func (f *configFlags) load() (Config, error) {
	c := defaultConfig()
	if f.file != "" {
		if err := c.read(f.file); err != nil {
			return c, err
		}
	}
	if err := c.environment(); err != nil {
		return c, err
	}
	for name, to := range map[string]*string{
		"data": &c.Data, "listen": &c.Listen, "root-url": &c.RootURL, "database": &c.Database,
		"log-level": &c.LogLevel, "log-format": &c.LogFormat,
	} {
		if g := f.set.Lookup(name); g != nil && g.Changed {
			*to = g.Value.String()
		}
	}
	return c, c.check()
}

// read fills in what a file says, or the files of a directory.
func (c *Config) read(file string) error {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return c.readDirectory(file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	c.file, c.text = file, text
	return c.decode(file, text)
}

// readDirectory fills in what its files *.yml say, in the order of their names. An entry at the top is in one
// of them: two would make it hard to tell what counts.
func (c *Config) readDirectory(directory string) error {
	c.file = directory
	entries, err := os.ReadDir(directory)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	at := map[string]string{}
	for _, e := range entries {
		file := filepath.Join(directory, e.Name())
		if filepath.Ext(file) != ".yml" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading the configuration: %w", err)
		}
		c.parts = append(c.parts, configPart{file, text})
		if err := c.decode(file, text); err != nil {
			return err
		}
		top, err := topOf(text)
		if err != nil {
			return fmt.Errorf("configuration %s: %s", file, yaml.FormatError(err, false, false))
		}
		for _, entry := range top {
			name := fmt.Sprint(entry.Key)
			if at[name] != "" {
				return fmt.Errorf("configuration %s: %s is in %s and in %s; it must be in one of them", directory, name, at[name], file)
			}
			at[name] = file
		}
	}
	if len(c.parts) == 0 {
		return fmt.Errorf("reading the configuration: no file *.yml is in the directory %s", directory)
	}
	return nil
}

// topOf are the entries at the top of a text.
func topOf(text []byte) (top yaml.MapSlice, err error) {
	err = yaml.Unmarshal(text, &top)
	return top, err
}

// decode fills in what the text of a file says. Unknown entries are errors with their line; not
// with its text, as that and the lines around it may hold secrets.
func (c *Config) decode(file string, text []byte) error {
	if top, err := topOf(text); err == nil && len(top) == 0 {
		return nil // to decode comments alone would empty what there is
	}
	d := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := d.Decode(c); err != nil {
		return fmt.Errorf("configuration %s: %s", file, yaml.FormatError(err, false, false))
	}
	if d.Decode(new(any)) != io.EOF {
		return fmt.Errorf("configuration %s: has several documents, parted by ---, and only the first would count; make it one", file)
	}
	return nil
}

func (c *Config) environment() error {
	for name, to := range map[string]*string{
		"DATA": &c.Data, "LISTEN": &c.Listen, "ROOT_URL": &c.RootURL, "DATABASE": &c.Database, "SECRETS_FILE": &c.SecretsFile,
		"S3_ENDPOINT": &c.S3.Endpoint, "S3_REGION": &c.S3.Region, "S3_BUCKET": &c.S3.Bucket,
		"S3_ACCESS_KEY_ID": &c.S3.AccessKeyID, "S3_SECRET_ACCESS_KEY": &c.S3.SecretAccessKey,
		"RABBITMQ_URL": &c.RabbitMQ.URL, "METRICS_TOKEN": &c.MetricsToken, "LOG_LEVEL": &c.LogLevel, "LOG_FORMAT": &c.LogFormat,
	} {
		if v, ok := os.LookupEnv("TASKFLEET_" + name); ok {
			*to = v
		}
	}
	switch v := os.Getenv("TASKFLEET_S3_PATH_STYLE"); v {
	case "":
	case "true", "false":
		c.S3.PathStyle = v == "true"
	default:
		return fmt.Errorf("TASKFLEET_S3_PATH_STYLE is %q; it must be true or false", v)
	}
	return nil
}

// check finds what cannot work, and fills in what depends on other entries.
func (c *Config) check() error {
	var wrong []error
	bad := func(path, format string, args ...any) {
		wrong = append(wrong, c.mistake(path, fmt.Sprintf(format, args...)))
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		bad("listen", "listen is %q; it must be host:port, such as 127.0.0.1:8080", c.Listen)
	}
	if c.Data == "" {
		bad("data", "data must name a directory")
	}
	if c.RootURL != "" {
		u, err := url.Parse(c.RootURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.HasSuffix(c.RootURL, "/") || u.RawQuery != "" {
			shown := c.RootURL
			if strings.Contains(shown, "@") {
				shown = "(not shown, as it may hold a password)"
			}
			bad("rootUrl", "rootUrl is %q; it must be a URL such as https://tasks.example.com, without a user and without a slash at the end", shown)
		}
	}
	if c.Database == "" {
		c.Database = "sqlite:" + filepath.Join(c.Data, "taskfleet.db")
	}
	if scheme, _, _ := strings.Cut(c.Database, ":"); scheme != "sqlite" && scheme != "postgres" && scheme != "postgresql" && scheme != "file" {
		bad("database", "database must begin with sqlite: or postgres://, or be file:PATH of a file that holds such a URL")
	}
	for i, s := range c.Clients {
		switch place := fmt.Sprintf("clients[%d]", i); {
		case !strings.HasPrefix(s.ClientID, "static/") || strings.HasPrefix(s.ClientID, "static/taskcluster/"):
			bad(place+".clientId", "clientId is %q; that of a static client begins with static/, and static/taskcluster/… are the platform's own", s.ClientID)
		case len(s.AccessToken) < 22:
			bad(place, "the client %s needs an accessToken of 22 characters or more; taskfleet config secrets prints such", s.ClientID)
		}
	}
	switch {
	case c.S3.Bucket == "":
		bad("s3.bucket", "s3.bucket must name the bucket for artifacts")
	case (c.S3.AccessKeyID == "") != (c.S3.SecretAccessKey == ""):
		bad("s3", "s3 needs accessKeyId and secretAccessKey, or neither")
	case c.S3.embedded() && (c.S3.AccessKeyID != "" || c.S3.PathStyle):
		bad("s3", "s3 has settings but no region or endpoint; give one of them, or leave s3 out to use the gateway inside the process")
	}
	c.checkProviders(bad)
	c.checkElsewhere(bad)
	c.checkReload(bad)
	c.readMirror(bad)
	c.readCredentials(bad)
	c.CredentialsAudit.policy(bad)
	c.Infra.check(c.Notify.SMTP != nil || c.Notify.SES != nil, bad)
	c.checkSentryKeys(bad)
	if c.Auth.SignalFx != nil {
		if _, err := c.Auth.SignalFx.bootstrapper(nil, nil); err != nil {
			bad("auth.signalfx", "%v", err)
		}
	}
	if err == nil && !loopback(host) {
		if c.S3.embedded() {
			bad("listen", "listen is %s, reachable from other machines, but artifacts would be served on this machine only; configure s3", c.Listen)
		}
		if c.RootURL == "" {
			bad("listen", "listen is %s, reachable from other machines; set rootUrl to how they reach it", c.Listen)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		bad("logLevel", "logLevel is %q; it must be debug, info, warn or error", c.LogLevel)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		bad("logFormat", "logFormat is %q; it must be text or json", c.LogFormat)
	}
	return errors.Join(wrong...)
}

// mistake is an error that tells the entry's place in the file, if it has one.
func (c *Config) mistake(path, message string) error {
	if c.file == "" {
		return errors.New(message)
	}
	where := c.file
	if p, err := yaml.PathString("$." + path); err == nil {
		for _, part := range append([]configPart{{c.file, c.text}}, c.parts...) {
			if entry, err := p.ReadNode(bytes.NewReader(part.text)); err == nil { // else it is not in the file
				where = fmt.Sprintf("%s:%d", part.file, entry.GetToken().Position.Line)
			}
		}
	}
	return fmt.Errorf("%s: %s", where, message)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Config) logger(out interface{ Write([]byte) (int, error) }) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, o))
	}
	return slog.New(slog.NewTextHandler(out, o))
}

// takeStandardLog has what libraries say by the package log be lines of ours, in our
// format. net/http quotes what a server has sent unasked, which is nobody's business.
func takeStandardLog(to *slog.Logger) {
	log.SetFlags(0)
	log.SetPrefix("")
	log.SetOutput(librarian{to})
}

// A librarian writes what libraries say to a log.
type librarian struct{ to *slog.Logger }

// longestRemark of a library is kept.
const longestRemark = 500

// Write is part of io.Writer. Each call is a remark.
func (l librarian) Write(b []byte) (int, error) {
	text, level := strings.TrimSpace(string(b)), slog.LevelWarn
	if before, _, quoted := strings.Cut(text, " starting with "); quoted && strings.HasPrefix(text, "Unsolicited response") {
		text, level = before, slog.LevelDebug // any server can cause it, at any rate
	}
	if len(text) > longestRemark {
		text = text[:longestRemark] + "..."
	}
	l.to.Log(context.Background(), level, "a library says", "text", strings.ToValidUTF8(text, "?"))
	return len(b), nil
}

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Explain and check the server's configuration",
		Long: configDoc, Args: cobra.NoArgs,
	}
	var flags configFlags
	check := &cobra.Command{
		Use: "check", Short: "Check a configuration without starting anything",
		Long:    "Reads the configuration as taskfleet serve would and says what is wrong with it, with the line.\n\n" + configDoc,
		Example: "  taskfleet config check --config taskfleet.yml\n  taskfleet config check --config /etc/taskfleet/conf.d",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			storage := "gateway inside the process, on " + filepath.Join(c.Data, "s3")
			if !c.S3.embedded() {
				storage = fmt.Sprintf("S3 %s, bucket %s", strings.TrimSpace(c.S3.Endpoint+" "+c.S3.Region), c.S3.Bucket)
			}
			kind, _, _ := strings.Cut(c.Database, ":")
			plan := c.readMirror(func(string, string, ...any) {})
			fmt.Fprintf(cmd.OutOrStdout(), "The configuration is good.\n  API        %s\n  data       %s\n  database   %s\n  artifacts  %s\n  copies     %s\n",
				c.Listen, c.Data, kind, storage, describeMirror(plan))
			if plan != nil {
				for _, w := range plan.warnings {
					fmt.Fprintf(cmd.OutOrStdout(), "Warning: %v\n", w)
				}
			}
			return nil
		},
	}
	flags.add(check.Flags())
	cmd.AddCommand(check, newSecretsCommand())
	return cmd
}
