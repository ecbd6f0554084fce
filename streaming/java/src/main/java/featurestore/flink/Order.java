package featurestore.flink;

/** The one order of values: numbers by value, texts by their UTF-8 bytes, false before true. */
final class Order {
    private Order() {}

    /** Negative, zero or positive; neither is null, and both are of one type. */
    @SuppressWarnings("unchecked")
    static int compare(Object a, Object b) {
        if (a instanceof String text) {
            return compareTexts(text, (String) b);
        }
        return ((Comparable<Object>) a).compareTo(b);
    }

    /** By code points, which is the order of UTF-8 bytes; Java's own order of UTF-16 units is another. */
    static int compareTexts(String a, String b) {
        int shared = Math.min(a.length(), b.length());
        for (int i = 0; i < shared; i++) {
            char x = a.charAt(i);
            char y = b.charAt(i);
            if (x != y) {
                return Integer.compare(raised(x), raised(y));
            }
        }
        return Integer.compare(a.length(), b.length());
    }

    /** Surrogates stand for what lies above all other units. */
    private static int raised(char unit) {
        return Character.isSurrogate(unit) ? unit + 0x10000 : unit;
    }
}
