package featurestore.flink;

import java.io.IOException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.StringData;

/**
 * The common event, read in one pass: each column once, values written as they usually are. Anything else is left to {@link
 * Events#read}, which alone says what an event is and what is wrong with one.
 */
final class FastEvents {
    private static final JsonFactory JSON = new JsonFactory();
    private static final long EXACT = 1L << 53;

    private final Events.Column[] columns;
    private final Map<String, Integer> numbers = new HashMap<>();

    FastEvents(List<Events.Column> columns) {
        this.columns = columns.toArray(Events.Column[]::new);
        for (int i = 0; i < this.columns.length; i++) {
            numbers.put(this.columns[i].name(), i);
        }
    }

    /** Fills a row from its second field on, or says false: then what is in it means nothing. */
    boolean read(byte[] payload, GenericRowData row) {
        try (JsonParser parser = JSON.createParser(payload)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) {
                return false;
            }
            int next = 0;
            long seen = 0;
            for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
                if (next >= columns.length || !columns[next].name().equals(name)) { // mostly they come in order
                    Integer number = numbers.get(name);
                    if (number == null) {
                        return false;
                    }
                    next = number;
                }
                if (next >= Long.SIZE || (seen & 1L << next) != 0) {
                    return false;
                }
                seen |= 1L << next;
                if (!value(parser, parser.nextToken(), columns[next], row, next + 1)) {
                    return false;
                }
                next++;
            }
            return Long.bitCount(seen) == columns.length
                    && parser.currentToken() == JsonToken.END_OBJECT
                    && parser.nextToken() == null;
        } catch (IOException e) {
            return false;
        }
    }

    private static boolean value(JsonParser parser, JsonToken token, Events.Column column, GenericRowData row, int at)
            throws IOException {
        if (token == JsonToken.VALUE_NULL) {
            row.setField(at, null);
            return true;
        }
        Object value = switch (column.kind()) {
            case "String" -> token == JsonToken.VALUE_STRING ? text(parser) : null;
            case "Int64" -> whole(parser, token);
            case "Int32" -> narrow(whole(parser, token));
            case "Float64" -> number(parser, token);
            case "Float32" -> narrow(number(parser, token));
            case "Bool" -> token.isBoolean() ? (Object) (token == JsonToken.VALUE_TRUE) : null;
            case "Timestamp" -> token == JsonToken.VALUE_STRING
                    ? instant(parser.getTextCharacters(), parser.getTextOffset(), parser.getTextLength())
                    : null;
            case "Decimal" -> token == JsonToken.VALUE_STRING
                    ? decimal(parser.getTextCharacters(), parser.getTextOffset(), parser.getTextLength(), column)
                    : null;
            case "Date" -> token == JsonToken.VALUE_STRING && parser.getTextLength() == 10
                    ? date(parser.getTextCharacters(), parser.getTextOffset())
                    : null;
            default -> {
                parser.skipChildren(); // of a list only its presence is asked
                yield Boolean.TRUE;
            }
        };
        row.setField(at, value);
        return value != null;
    }

    /** Half a surrogate pair is no text: whoever sees any half lets the other reader look. */
    private static StringData text(JsonParser parser) throws IOException {
        String text = parser.getText();
        for (int i = 0; i < text.length(); i++) {
            if (Character.isSurrogate(text.charAt(i))) {
                return null;
            }
        }
        return StringData.fromString(text);
    }

    private static Long whole(JsonParser parser, JsonToken token) throws IOException {
        return token == JsonToken.VALUE_NUMBER_INT && parser.getNumberType() != JsonParser.NumberType.BIG_INTEGER
                ? parser.getLongValue()
                : null;
    }

    private static Double number(JsonParser parser, JsonToken token) throws IOException {
        if (token == JsonToken.VALUE_NUMBER_FLOAT) {
            return parser.getDoubleValue();
        }
        Long whole = whole(parser, token);
        return whole != null && whole >= -EXACT && whole <= EXACT ? whole.doubleValue() : null;
    }

    private static Integer narrow(Long wide) {
        return wide != null && wide == wide.intValue() ? (Integer) wide.intValue() : null;
    }

    private static Float narrow(Double wide) {
        return wide != null && Math.abs(wide) <= Float.MAX_VALUE ? (Float) wide.floatValue() : null;
    }

    private static final int SHORTEST = "2024-03-10T12:00:00".length();
    private static final long DAY = 86_400;

    /** {@code 2024-03-10T12:00:00[.123456][Z|+01:00]}, or null. */
    static Long instant(char[] text, int from, int length) {
        if (length < SHORTEST) {
            return null;
        }
        Integer date = date(text, from);
        int hour = digits(text, from + 11, 2);
        int minute = digits(text, from + 14, 2);
        int second = digits(text, from + 17, 2);
        boolean parted = (text[from + 10] == 'T' || text[from + 10] == ' ') && text[from + 13] == ':' && text[from + 16] == ':';
        if (!parted || date == null || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) {
            return null;
        }
        int at = from + SHORTEST;
        int end = from + length;
        long micros = 0;
        if (at < end && text[at] == '.') {
            int first = ++at;
            for (; at < end && text[at] >= '0' && text[at] <= '9'; at++) {
                if (at - first < 6) {
                    micros = 10 * micros + (text[at] - '0');
                }
            }
            if (at == first || at - first > 9) {
                return null;
            }
            for (int i = at - first; i < 6; i++) {
                micros *= 10;
            }
        }
        long offset = 0;
        if (end - at == 6 && (text[at] == '+' || text[at] == '-') && text[at + 3] == ':') {
            int hours = digits(text, at + 1, 2);
            int minutes = digits(text, at + 4, 2);
            if (hours < 0 || hours > 17 || minutes < 0 || minutes > 59) {
                return null;
            }
            offset = (text[at] == '-' ? -60L : 60L) * (60 * hours + minutes);
        } else if (!(end == at || end - at == 1 && text[at] == 'Z')) {
            return null;
        }
        long seconds = date * DAY + hour * 3600L + minute * 60L + second - offset;
        return seconds * 1_000_000 + micros;
    }

    /** Days since 1970 of {@code 2024-03-10}, or null. */
    static Integer date(char[] text, int from) {
        int year = digits(text, from, 4);
        int month = digits(text, from + 5, 2);
        int day = digits(text, from + 8, 2);
        boolean parted = text[from + 4] == '-' && text[from + 7] == '-';
        if (!parted || year < 1 || month < 1 || month > 12 || day < 1 || day > 28 && !isDay(year, month, day)) {
            return null;
        }
        return (int) epochDay(year, month, day);
    }

    private static boolean isDay(int year, int month, int day) {
        boolean leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        int last = month == 2 ? (leap ? 29 : 28) : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
        return day <= last;
    }

    /** Days since 1970, of a year counted from March. */
    private static long epochDay(int year, int month, int day) {
        int y = month > 2 ? year : year - 1;
        int ofYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
        return 365L * y + y / 4 - y / 100 + y / 400 + ofYear - 719_468;
    }

    /** A number of so many digits; negative where there is another character. */
    private static int digits(char[] text, int from, int count) {
        int number = 0;
        for (int i = from; i < from + count; i++) {
            int digit = text[i] - '0';
            if (digit < 0 || digit > 9) {
                return -1;
            }
            number = 10 * number + digit;
        }
        return number;
    }

    /** The unscaled digits of {@code -12.5}, or null. */
    static Long decimal(char[] text, int from, int length, Events.Column column) {
        int at = from;
        int end = from + length;
        boolean negative = length > 0 && text[from] == '-';
        if (negative) {
            at++;
        }
        long number = 0;
        int whole = 0;
        int after = -1;
        for (; at < end; at++) {
            int digit = text[at] - '0';
            if (digit >= 0 && digit <= 9) {
                number = 10 * number + digit;
                if (after >= 0) {
                    after++;
                } else {
                    whole++;
                }
            } else if (text[at] == '.' && after < 0) {
                after = 0;
            } else {
                return null;
            }
        }
        int scale = Math.max(after, 0);
        if (whole == 0 || after == 0 || scale > column.scale() || whole > column.precision() - column.scale()) {
            return null;
        }
        for (int i = scale; i < column.scale(); i++) {
            number *= 10;
        }
        return negative ? -number : number;
    }
}
