# Brings the secrets to the server as files, and keeps them up to date. It runs in a container of its own, beside the
# server, as root: it gives the files to the server's user, which cannot write to where they are.
#
# FILES is a list of FILE=ARN, DATABASE_* say where the database is and which secret has who logs in, CONFIGURATION is the server's,
# MORE_CONFIGURATION a list of secrets with more sections of it, ARN or ARN#VERSION, and OWNER is its user.
# What is read of a secret is never an argument of a program, nor in the log.
set -eu
umask 077
cd /etc/taskfleet
mkdir -p secrets conf.d
chmod 0711 . # the server gets at files by their names
chown "$OWNER:$OWNER" secrets conf.d /var/lib/taskfleet /tmp/taskfleet
chmod 0500 secrets conf.d
chmod 0700 /var/lib/taskfleet /tmp/taskfleet

# put FILE has the file be what comes on standard input, at once and whole.
put() {
  cat >"$1.new" && chown "$OWNER:$OWNER" "$1.new" && chmod 0400 "$1.new" && mv -f "$1.new" "$1"
}

value() {
  aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text
}

# configuration ARN is the value of a secret, which has none before somebody configures something there.
# configuration ARN#VERSION is that of a version: a release stays with what it was made for.
configuration() {
  case $1 in
  *"#"*)
    aws secretsmanager get-secret-value --secret-id "${1%%#*}" --version-id "${1#*#}" --query SecretString --output text
    return
    ;;
  esac
  if value "$1" 2>said; then return 0; fi
  case $(cat said) in
  *"staging label: AWSCURRENT"*)
    echo "$1 has no value yet" >&2
    return 0
    ;;
  esac
  cat said >&2
  return 1
}

refresh() {
  for pair in $FILES; do
    secret=$(value "${pair#*=}") || return 1
    printf '%s\n' "$secret" | put "secrets/${pair%%=*}" || return 1
  done
  # The secret is an object of username and password, which count before what is in the url, also when they change.
  secret=$(value "$DATABASE_SECRET") || return 1
  case $secret in
  '{'*) ;;
  *)
    echo "the secret of the database is no JSON object; give it username and password" >&2
    return 1
    ;;
  esac
  printf '{"url":"postgres://%s",%s\n' "$DATABASE_PLACE" "${secret#?}" | put secrets/database.json || return 1
}

printf '%s\n' "$CONFIGURATION" | put conf.d/infra.yml
for wanted in $MORE_CONFIGURATION; do
  more=$(configuration "$wanted")
  name=${wanted%%#*}
  printf '%s\n' "$more" | put "conf.d/${name##*[:/]}.yml"
done
if [ -z "$DATABASE_CA_PEM" ]; then
  DATABASE_CA_PEM=$(curl --fail --silent --show-error --retry 5 --max-time 60 "$DATABASE_CA_URL")
fi
printf '%s\n' "$DATABASE_CA_PEM" | put secrets/rds-ca.pem
until refresh; do sleep 5; done
touch ready # which the health check of this container looks for, and the server waits for

trap 'exit 0' TERM
while :; do
  sleep "$REFRESH_SECONDS" &
  wait $!
  refresh || echo "not all secrets were read; the server goes on with those it has" >&2
done
