package featurestore.flink;

import java.time.Instant;
import java.time.LocalDate;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.functions.ScalarFunction;

/** Instants are microseconds since 1970, days are days since 1970, both UTC; every division is a floor. */
public final class Times {
    private Times() {}

    private static final long DAY = 86_400_000_000L;
    private static final long HOUR = 3_600_000_000L;
    private static final long MINUTE = 60_000_000L;

    public static class DayOf extends ScalarFunction {
        public Integer eval(Long t) {
            return t == null ? null : (Integer) (int) Math.floorDiv(t, DAY);
        }
    }

    public static class MidnightOf extends ScalarFunction {
        public Long eval(Integer day) {
            return day == null ? null : (Long) (day * DAY);
        }
    }

    public static class Year extends ScalarFunction {
        public Long eval(Integer day) {
            return day == null ? null : (Long) (long) LocalDate.ofEpochDay(day).getYear();
        }
    }

    public static class Month extends ScalarFunction {
        public Long eval(Integer day) {
            return day == null ? null : (Long) (long) LocalDate.ofEpochDay(day).getMonthValue();
        }
    }

    public static class DayOfMonth extends ScalarFunction {
        public Long eval(Integer day) {
            return day == null ? null : (Long) (long) LocalDate.ofEpochDay(day).getDayOfMonth();
        }
    }

    /** Monday 1 to Sunday 7; day 0 was a Thursday. */
    public static class DayOfWeek extends ScalarFunction {
        public Long eval(Integer day) {
            return day == null ? null : (Long) (Math.floorMod(day + 3L, 7L) + 1);
        }
    }

    public static class Hour extends ScalarFunction {
        public Long eval(Long t) {
            return t == null ? null : (Long) (Math.floorMod(t, DAY) / HOUR);
        }
    }

    public static class Minute extends ScalarFunction {
        public Long eval(Long t) {
            return t == null ? null : (Long) (Math.floorMod(t, HOUR) / MINUTE);
        }
    }

    /** Microseconds of an instant that Kafka wrote. */
    public static class Arrival extends ScalarFunction {
        public Long eval(@DataTypeHint("TIMESTAMP_LTZ(3)") Instant at) {
            return at == null ? null : (Long) (at.toEpochMilli() * 1000);
        }
    }

    /** The start of the tile that an instant lies in. */
    public static class Tile extends ScalarFunction {
        public Long eval(Long t, Long hop) {
            return t == null ? null : (Long) (t - Math.floorMod(t, hop));
        }
    }
}
