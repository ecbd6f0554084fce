package featurestore.flink;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.regex.Pattern;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.functions.ScalarFunction;

/** Casts: null where a value has no place in the other type. Decimals are unscaled whole numbers. */
public final class Casts {
    private Casts() {}

    public static class ToInt32 extends ScalarFunction {
        public Integer eval(Long a) {
            return a == null || a != a.intValue() ? null : (Integer) a.intValue();
        }
    }

    /** Cut towards zero. */
    public static class DoubleToInt extends ScalarFunction {
        public Long eval(Double a) {
            return a == null || !(a >= -0x1p63 && a < 0x1p63) ? null : (Long) a.longValue();
        }
    }

    public static class ToFloat extends ScalarFunction {
        public Float eval(Double a) {
            return a == null || !Float.isFinite(a.floatValue()) ? null : (Float) (a.floatValue() + 0f);
        }
    }

    public static class DoubleToDecimal extends ScalarFunction {
        public Long eval(Double a, Integer scale, Integer precision) {
            if (a == null) {
                return null;
            }
            double whole = Numbers.away(a, Numbers.POWERS[scale]);
            return Math.abs(whole) < Numbers.POWERS[precision] ? (Long) (long) whole : null;
        }
    }

    public static class DecimalToDouble extends ScalarFunction {
        public Double eval(Long a, Integer scale) {
            return a == null ? null : (Double) ((double) a / Numbers.POWERS[scale]);
        }
    }

    /** Cut towards zero. */
    public static class DecimalToInt extends ScalarFunction {
        public Long eval(Long a, Integer scale) {
            return a == null ? null : (Long) (a / Numbers.POWERS[scale]);
        }
    }

    /** A decimal of another scale, rounded half away from zero where it loses digits. */
    public static class Rescale extends ScalarFunction {
        public Long eval(Long a, Integer from, Integer to, Integer precision) {
            if (a == null) {
                return null;
            }
            if (to < from) {
                return Numbers.fit(Numbers.rounded(a, Numbers.POWERS[from - to]), precision);
            }
            return Numbers.fit(BigInteger.valueOf(a).multiply(BigInteger.valueOf(Numbers.POWERS[to - from])), precision);
        }
    }

    /** As many zeros more, in 38 digits, which hold any 19 digits and 18 zeros. */
    public static class Widen extends ScalarFunction {
        public @DataTypeHint("DECIMAL(38, 0)") BigDecimal eval(Long a, Integer zeros) {
            return a == null ? null : BigDecimal.valueOf(a).multiply(BigDecimal.valueOf(Numbers.POWERS[zeros]));
        }
    }

    public static class DecimalText extends ScalarFunction {
        public String eval(Long a, Integer scale) {
            return a == null ? null : BigDecimal.valueOf(a, scale).toPlainString();
        }
    }

    /** A function of text that a pattern must match whole: the pattern is a constant, compiled once. */
    public abstract static class Reader extends ScalarFunction {
        private transient String text;
        private transient Pattern pattern;

        boolean fits(String value, String wanted) {
            if (value == null) {
                return false;
            }
            if (!wanted.equals(text)) {
                text = wanted;
                pattern = Pattern.compile(wanted);
            }
            return pattern.matcher(value).matches();
        }
    }

    public static class ReadInt extends Reader {
        public Long eval(String value, String wanted) {
            if (!fits(value, wanted)) {
                return null;
            }
            BigInteger whole = new BigInteger(value);
            return whole.bitLength() < 64 ? (Long) whole.longValue() : null;
        }
    }

    public static class ReadDouble extends Reader {
        public Double eval(String value, String wanted) {
            return fits(value, wanted) ? Numbers.finite(Double.parseDouble(value)) : null;
        }
    }

    public static class ReadDecimal extends Reader {
        public Long eval(String value, String wanted, Integer scale, Integer precision) {
            return fits(value, wanted)
                    ? Numbers.fit(new BigDecimal(value).setScale(scale).unscaledValue(), precision)
                    : null;
        }
    }

    public static class ReadDate extends Reader {
        public Integer eval(String value, String wanted) {
            if (!fits(value, wanted)) {
                return null;
            }
            try {
                return (int) LocalDate.parse(value).toEpochDay();
            } catch (DateTimeException e) { // 30 February
                return null;
            }
        }
    }

    public static class ReadTimestamp extends Reader {
        public Long eval(String value, String wanted) {
            if (!fits(value, wanted)) {
                return null;
            }
            String local = (value.endsWith("Z") ? value.substring(0, value.length() - 1) : value).replace(' ', 'T');
            try {
                LocalDateTime at = LocalDateTime.parse(local);
                return at.toEpochSecond(ZoneOffset.UTC) * 1_000_000 + at.getNano() / 1000;
            } catch (DateTimeException e) { // 30 February
                return null;
            }
        }
    }
}
