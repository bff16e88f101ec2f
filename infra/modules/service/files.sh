# Brings the secrets to the server as files, and keeps them up to date. It runs in a container of its own, beside the
# server, as root: it gives the files to the server's user, which cannot write to where they are.
#
# FILES is a list of FILE=ARN, DATABASE_* say where the database is and who logs in at first, CONFIGURATION is the server's, to which
# the values of the secrets MORE_CONFIGURATION are added, and OWNER is its user.
# What is read of a secret is never an argument of a program, nor in the log.
set -eu
umask 077
cd /etc/taskfleet
mkdir -p secrets
chmod 0711 . # the server gets at files by their names
chown "$OWNER:$OWNER" secrets /var/lib/taskfleet /tmp/taskfleet
chmod 0500 secrets
chmod 0700 /var/lib/taskfleet /tmp/taskfleet

# put FILE has the file be what comes on standard input, at once and whole.
put() {
  cat >"$1.new" && chown "$OWNER:$OWNER" "$1.new" && chmod 0400 "$1.new" && mv -f "$1.new" "$1"
}

value() {
  aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text
}

# encoded TEXT is the text as part of a URL.
encoded() {
  rest=$1
  while [ -n "$rest" ]; do
    first=${rest%"${rest#?}"}
    rest=${rest#?}
    case $first in
    [A-Za-z0-9._~-]) printf '%s' "$first" ;;
    *) printf '%%%02X' "'$first" ;;
    esac
  done
}

refresh() {
  for pair in $FILES; do
    secret=$(value "${pair#*=}") || return 1
    printf '%s\n' "$secret" | put "secrets/${pair%%=*}" || return 1
  done
  # The secret is an object of username and password. The server begins with the url, and takes those of the object once they change.
  secret=$(value "$DATABASE_SECRET") || return 1
  case $secret in
  '{'*) ;;
  *)
    echo "the secret of the database is no JSON object; give it username and password" >&2
    return 1
    ;;
  esac
  printf '{"url":"%s",%s\n' "$DATABASE_URL" "${secret#?}" | put secrets/database.json || return 1
}

DATABASE_URL="postgres://$(encoded "$DATABASE_USERNAME"):$(encoded "$DATABASE_PASSWORD")@$DATABASE_PLACE"
for arn in $MORE_CONFIGURATION; do
  more=$(value "$arn")
  CONFIGURATION="$CONFIGURATION
$more"
done
printf '%s\n' "$CONFIGURATION" | put taskfleet.yml
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
