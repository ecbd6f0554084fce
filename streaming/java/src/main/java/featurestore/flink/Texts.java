package featurestore.flink;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import org.apache.flink.table.functions.ScalarFunction;

/** Text by code points; letters A to Z are the only ones with two cases. */
public final class Texts {
    private Texts() {}

    static MessageDigest md5() {
        try {
            return MessageDigest.getInstance("MD5");
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every Java has MD5", e);
        }
    }

    private static String shifted(String text, char first, int by) {
        char[] units = text.toCharArray();
        for (int i = 0; i < units.length; i++) {
            if (units[i] >= first && units[i] < first + 26) {
                units[i] += (char) by;
            }
        }
        return new String(units);
    }

    public static class Lower extends ScalarFunction {
        public String eval(String a) {
            return a == null ? null : shifted(a, 'A', 32);
        }
    }

    public static class Upper extends ScalarFunction {
        public String eval(String a) {
            return a == null ? null : shifted(a, 'a', -32);
        }
    }

    public static class Length extends ScalarFunction {
        public Long eval(String a) {
            return a == null ? null : (Long) (long) a.codePointCount(0, a.length());
        }
    }

    /** Code points from start (from 0) to start + n; what is not there is left out. */
    public static class Substring extends ScalarFunction {
        public String eval(String a, Long start, Long n) {
            if (a == null) {
                return null;
            }
            int length = a.codePointCount(0, a.length());
            if (start >= length) {
                return "";
            }
            int from = a.offsetByCodePoints(0, start.intValue());
            int end = a.offsetByCodePoints(from, (int) Math.min(n, length - start));
            return a.substring(from, end);
        }
    }

    public static class StartsWith extends ScalarFunction {
        public Boolean eval(String a, String b) {
            return a == null || b == null ? null : (Boolean) a.startsWith(b);
        }
    }

    public static class EndsWith extends ScalarFunction {
        public Boolean eval(String a, String b) {
            return a == null || b == null ? null : (Boolean) a.endsWith(b);
        }
    }

    public static class Contains extends ScalarFunction {
        public Boolean eval(String a, String b) {
            return a == null || b == null ? null : (Boolean) a.contains(b);
        }
    }

    /** The first 15 hexadecimal digits of the MD5 of the UTF-8 text, modulo n. */
    public static class HashBucket extends ScalarFunction {
        private transient MessageDigest digest;

        public Long eval(String a, Long n) {
            if (a == null) {
                return null;
            }
            if (digest == null) {
                digest = md5();
            }
            byte[] bytes = digest.digest(a.getBytes(StandardCharsets.UTF_8));
            long first = 0;
            for (int i = 0; i < 8; i++) {
                first = first << 8 | (bytes[i] & 0xff);
            }
            return (first >>> 4) % n;
        }
    }
}
