package featurestore.flink;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** A growing key of bytes, each value written so that keys compare as values do. */
final class Bytes {
    private byte[] bytes = new byte[32];
    private int length;

    /** A flag that says whether it is null, then the value. */
    void add(Object value) {
        if (value == null) {
            put(0);
            return;
        }
        put(1);
        if (value instanceof String text) {
            for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
                put(b);
                if (b == 0) {
                    put(0xff);
                }
            }
            put(0);
            put(0);
        } else if (value instanceof Boolean truth) {
            put(truth ? 1 : 0);
        } else if (value instanceof Double || value instanceof Float) {
            long bits = Double.doubleToRawLongBits(((Number) value).doubleValue());
            word(bits < 0 ? ~bits : bits ^ Long.MIN_VALUE);
        } else {
            word(((Number) value).longValue() ^ Long.MIN_VALUE);
        }
    }

    byte[] toArray() {
        return Arrays.copyOf(bytes, length);
    }

    private void word(long bits) {
        for (int shift = 56; shift >= 0; shift -= 8) {
            put((int) (bits >>> shift));
        }
    }

    private void put(int b) {
        if (length == bytes.length) {
            bytes = Arrays.copyOf(bytes, 2 * length);
        }
        bytes[length++] = (byte) b;
    }
}
