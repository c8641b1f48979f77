# The guide's curl examples, one after the other: URL, TOKEN and MERCHANT are from outside.
set -euo pipefail
AUTH="Authorization: Bearer $TOKEN"
JSON="Content-Type: application/json"
field() { sed -E "s/.*\"$1\": ?\"?([^\",}]*).*/\1/"; }

WEBHOOK=$(curl -sf -X POST "$URL/webhooks/" -H "$AUTH" -H "$JSON" -d '{"callback_url": "http://127.0.0.1:9/webhooks/jetpay"}' | field identifier)
CONTACT=$(curl -sf -X PUT "$URL/contact" -H "$AUTH" -H "$JSON" -d '{"email": "ann@example.com", "name": "Ann Payer", "tags": [], "language": "en"}' | field identifier)

FORM=$(curl -sf -X POST "$URL/contact/$CONTACT/creditcards/url" -H "$AUTH")
CARD=$(echo "$FORM" | field credit_card_id)
curl -sf -X POST "$(echo "$FORM" | field url)" -d card_number=4111111111111111 > /dev/null # the payer, in the iframe

DEBIT=$(curl -sf -X POST "$URL/contact/$CONTACT/creditcards/$CARD/preauthorize" -H "$AUTH" -H "$JSON" -d '{"amount": 100.50, "to_bank_account_id": "'"$MERCHANT"'", "statement": "Test statement"}' | field debit_id)
echo "capture $(curl -sf -X POST "$URL/debit/$DEBIT/capture" -H "$AUTH" | field state)"
echo "status $(curl -sf "$URL/transaction/$DEBIT/status" -H "$AUTH" | field state)"
echo "charge $(curl -sf -X POST "$URL/contact/$CONTACT/creditcards/$CARD/charge" -H "$AUTH" -H "$JSON" -d '{"amount": 12.50, "to_bank_account_id": "'"$MERCHANT"'", "statement": "Test statement"}' | field transaction_state)"

OTHER=$(curl -sf -X POST "$URL/contact/$CONTACT/creditcards/$CARD/preauthorize" -H "$AUTH" -H "$JSON" -d '{"amount": 5, "to_bank_account_id": "'"$MERCHANT"'", "statement": "Test statement"}' | field debit_id)
echo "cancel $(curl -sf -X DELETE "$URL/transaction/$OTHER" -H "$AUTH" | field ok)"

ACCOUNT=$(curl -sf -X PUT "$URL/contact/bank_account" -H "$AUTH" -H "$JSON" -d '{"institution": "A Bank", "title": "Savings", "holder_name": "Ann Payer", "contact_id": "'"$CONTACT"'", "account_type": "chequing", "transit_number": "00001", "institution_number": "001", "account_number": "1234567", "holder_address": "1 Road", "holder_address_postal_code": "A1A1A1", "holder_address_city": "Town", "holder_address_country": "CA", "holder_email": "ann@example.com"}' | field identifier)

LINK=$(curl -sf -X PUT "$URL/debit" -H "$AUTH" -H "$JSON" -d '{"amount": 10000, "statement": "Rent", "note": "July", "to_bank_account": "'"$MERCHANT"'", "contact_email": "bob@example.com", "contact_name": "Bob"}' | field link)
curl -sf -X POST "$LINK" > /dev/null # Bob follows it
curl -sf -X PUT "$URL/debit" -H "$AUTH" -H "$JSON" -d '{"amount": 80, "statement": "Rent", "to_bank_account": "'"$MERCHANT"'", "contact_id": "'"$CONTACT"'"}' > /dev/null
curl -sf -X PUT "$URL/credit" -H "$AUTH" -H "$JSON" -d '{"amount": 10000, "statement": "Refund", "from_bank_account": "'"$MERCHANT"'", "contact_id": "'"$CONTACT"'"}' > /dev/null
curl -sf -X PUT "$URL/credit" -H "$AUTH" -H "$JSON" -d '{"amount": 5, "statement": "Refund", "note": "July", "from_bank_account": "'"$MERCHANT"'", "to_bank_account": "'"$ACCOUNT"'", "contact_id": "'"$CONTACT"'"}' > /dev/null

echo "webhook $(curl -sf "$URL/webhooks/" -H "$AUTH" | grep -o '"identifier"' | wc -l | tr -d ' ')"
echo "webhook $(curl -sf "$URL/webhooks/$WEBHOOK" -H "$AUTH" | field callback_url)"
echo "webhook $(curl -sf -X PATCH "$URL/webhooks/$WEBHOOK" -H "$AUTH" -H "$JSON" -d '{"max_batch_size": 50}' | field max_batch_size)"
echo "webhook $(curl -sf -X PATCH "$URL/webhooks/$WEBHOOK" -H "$AUTH" -H "$JSON" -d '{"replay_from_event_id": 1}' | field max_wait_seconds)"
curl -sf -X DELETE "$URL/webhooks/$WEBHOOK" -H "$AUTH" > /dev/null
echo "keys $(curl -sf "$URL/.well-known/jwks.json" | grep -o '"kid"' | wc -l | tr -d ' ')"
