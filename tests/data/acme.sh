#!/usr/bin/env sh
# What acme.sh does at the end of _installcert, for one certificate after the other.
for one in first second third; do
    if ! (
        export CERT_PATH="$DOMAIN_PATH/$one.cer" CERT_KEY_PATH="$DOMAIN_PATH/$one.key"
        export CA_CERT_PATH="$DOMAIN_PATH/ca.cer" CERT_FULLCHAIN_PATH="$DOMAIN_PATH/fullchain.cer" Le_Domain="$one"
        cd "$DOMAIN_PATH" && eval "$Le_ReloadCmd"
    ); then
        exit 1
    fi
    echo "Reload success"
done
