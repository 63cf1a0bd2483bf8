"""Where simulated events happen and who takes part: the cells that a row of the feed has of a place, an actor, a kind of event.

Each is text as it stands in a file, so that a row is put together without looking into it. Countries are FIPS 10-4 codes: GM
is Germany, RQ Puerto Rico.
"""

from collections.abc import Sequence

TAB = "\t"

# City | state | code of the state | code of the county | latitude | longitude
_US_CITIES = """
Washington|District of Columbia|DC|001|38.8951|-77.0364
New York|New York|NY|061|40.7142|-74.0064
Los Angeles|California|CA|037|34.0522|-118.244
Chicago|Illinois|IL|031|41.85|-87.6501
Houston|Texas|TX|201|29.7633|-95.3633
Phoenix|Arizona|AZ|013|33.4484|-112.074
Philadelphia|Pennsylvania|PA|101|39.9523|-75.1638
San Antonio|Texas|TX|029|29.4241|-98.4936
San Diego|California|CA|073|32.7153|-117.157
Dallas|Texas|TX|113|32.7831|-96.8067
San Francisco|California|CA|075|37.7749|-122.419
Seattle|Washington|WA|033|47.6062|-122.332
Denver|Colorado|CO|031|39.7392|-104.985
Boston|Massachusetts|MA|025|42.3584|-71.0598
Brookline|Massachusetts|MA|021|42.3318|-71.1212
Detroit|Michigan|MI|163|42.3314|-83.0458
Nashville|Tennessee|TN|037|36.1659|-86.7844
Memphis|Tennessee|TN|157|35.1495|-90.049
Portland|Oregon|OR|051|45.5235|-122.676
Las Vegas|Nevada|NV|003|36.175|-115.137
Louisville|Kentucky|KY|111|38.2542|-85.7594
Baltimore|Maryland|MD|510|39.2904|-76.6122
Milwaukee|Wisconsin|WI|079|43.0389|-87.9065
Albuquerque|New Mexico|NM|001|35.0845|-106.651
Atlanta|Georgia|GA|121|33.749|-84.388
Miami|Florida|FL|086|25.7743|-80.1937
Tampa|Florida|FL|057|27.9475|-82.4584
Jacksonville|Florida|FL|031|30.3322|-81.6556
Minneapolis|Minnesota|MN|053|44.98|-93.2638
New Orleans|Louisiana|LA|071|29.9547|-90.0751
Cleveland|Ohio|OH|035|41.4995|-81.6954
Columbus|Ohio|OH|049|39.9612|-82.9988
Kansas City|Missouri|MO|095|39.0997|-94.5786
Saint Louis|Missouri|MO|510|38.6273|-90.1979
Omaha|Nebraska|NE|055|41.2586|-95.9378
Billings|Montana|MT|111|45.7833|-108.501
Boise|Idaho|ID|001|43.6135|-116.203
Salt Lake City|Utah|UT|035|40.7608|-111.891
Fargo|North Dakota|ND|017|46.8772|-96.7898
Sioux Falls|South Dakota|SD|099|43.55|-96.7003
Cheyenne|Wyoming|WY|021|41.14|-104.82
Wichita|Kansas|KS|173|37.6922|-97.3375
Oklahoma City|Oklahoma|OK|109|35.4676|-97.5164
Little Rock|Arkansas|AR|119|34.7465|-92.2896
Jackson|Mississippi|MS|049|32.2988|-90.1848
Birmingham|Alabama|AL|073|33.5207|-86.8025
Charlotte|North Carolina|NC|119|35.2271|-80.8431
Charleston|South Carolina|SC|019|32.7766|-79.9309
Richmond|Virginia|VA|760|37.5538|-77.4603
Charleston|West Virginia|WV|039|38.3498|-81.6326
Pittsburgh|Pennsylvania|PA|003|40.4406|-79.9959
Buffalo|New York|NY|029|42.8864|-78.8784
Hartford|Connecticut|CT|003|41.7637|-72.6851
Burlington|Vermont|VT|007|44.4759|-73.2121
Rockland|Maine|ME|013|44.1037|-69.1089
Des Moines|Iowa|IA|153|41.6005|-93.6091
Indianapolis|Indiana|IN|097|39.7684|-86.158
El Paso|Texas|TX|141|31.7587|-106.487
Anchorage|Alaska|AK|020|61.2181|-149.9
Fairbanks|Alaska|AK|090|65|-147
Honolulu|Hawaii|HI|003|21.3069|-157.858
"""

# Name | kind of place | country | first and second level of administration | latitude | longitude | id
_US_AREAS = """
United States|1|US|US||39.828175|-98.5795|US
California, United States|2|US|USCA||36.17|-119.746|CA
Texas, United States|2|US|USTX||31.106|-97.6475|TX
Maine, United States|2|US|USME||44.6074|-69.3977|ME
Alaska, United States|2|US|USAK||61.385|-152.268|AK
NA|2|US|USNC||35.6411|-79.8431|NC
"""
_TERRITORIES = """
San Juan, Puerto Rico, Puerto Rico|4|RQ|RQ00||18.4683|-66.1061|-3306551
Charlotte Amalie, Saint Thomas, U.S. Virgin Islands|4|VQ|VQ00||18.3419|-64.9307|-3748052
Hagatna, Guam, Guam|4|GQ|GQ00||13.4757|144.749|-1893901
Pago Pago, American Samoa|4|AQ|AQ00||-14.2781|-170.702|-1893952
Saipan, Northern Mariana Islands|4|CQ|CQ00||15.2|145.75|-1893903
"""
_ABROAD = """
Berlin, Berlin, Germany|4|GM|GM16|16538|52.5167|13.4|-1746443
Germany|1|GM|GM||51.5|10.5|GM
London, London, City of, United Kingdom|4|UK|UKH9|40110|51.5|-0.116667|-2601889
United Kingdom|1|UK|UK||54|-4|UK
Paris, France (general), France|4|FR|FR00|16282|48.8667|2.33333|-1456928
Madrid, Madrid, Spain|4|SP|SP29|23692|40.4|-3.68333|-390625
Rome, Lazio, Italy|4|IT|IT07|18375|41.9|12.4833|-126693
Sweden|1|SW|SW||62|15|SW
Russia|1|RS|RS||60|100|RS
Moscow, Moskva, Russia|4|RS|RS48|25106|55.7522|37.6156|-2960561
Kyiv, Ukraine (general), Ukraine|4|UP|UP00||50.4333|30.5167|-1044367
Jerusalem, Israel (general), Israel|4|IS|IS00|18315|31.7667|35.2333|-797092
Damascus, Dimashq, Syria|4|SY|SY13|28401|33.5|36.3|-2541529
Tehran, Tehran, Iran|4|IR|IR26|41137|35.75|51.5148|10074674
Cairo, Al Qahirah, Egypt|4|EG|EG11|13290|30.05|31.25|-290692
Nairobi, Nairobi Area, Kenya|4|KE|KE05|18993|-1.28333|36.8167|-2251465
Harare, Zimbabwe (general), Zimbabwe|4|ZI|ZI00||-17.8178|31.0447|-2313429
Lagos, Lagos, Nigeria|4|NI|NI05|2217|6.45306|3.39583|-2017355
Windhoek, Khomas, Namibia|4|WA|WA21||-22.57|17.0836|-2093846
Delhi, Delhi, India|4|IN|IN07|17911|28.6667|77.2167|-2094230
India|1|IN|IN||20|77|IN
Beijing, Beijing, China|4|CH|CH22|13001|39.9289|116.388|-1898541
Tokyo, Tokyo, Japan|4|JA|JA40|36215|35.685|139.751|-246227
Manila, Manila, Philippines|4|RP|RPD9|24227|14.6042|120.982|-2437894
Jakarta, Jakarta Raya, Indonesia|4|ID|ID04|1508|-6.17444|106.829|-2679652
Sydney, New South Wales, Australia|4|AS|AS02|154637|-33.8833|151.217|-1603135
Toronto, Ontario, Canada|4|CA|CA08|12552|43.6667|-79.4167|-574890
Ottawa, Ontario, Canada|4|CA|CA08|12552|45.4167|-75.7|-570760
Mexico City, Distrito Federal, Mexico|4|MX|MX09|20168|19.4342|-99.1386|-1658079
Panama City, Panamá, Panama|4|PM|PM08|93693|8.96667|-79.5333|-168008
Brasília, Distrito Federal, Brazil|4|BR|BR07|9973|-15.7833|-47.9167|-631243
Bogotá, Colombia (general), Colombia|4|CO|CO00||4.6|-74.0833|-592318
Caracas, Distrito Federal, Venezuela|4|VE|VE25||10.5|-66.9167|-936368
"""


def _city(number: int, line: str) -> str:
    name, state, code, county, latitude, longitude = line.split("|")
    where = f"{name}, {state}, United States"
    return TAB.join(
        ("3", where, "US", f"US{code}", f"{code}{county}", latitude, longitude, f"{531_871 + 7_919 * number}")
    )


def _place(line: str) -> str:
    name, kind, *rest = line.split("|")
    return TAB.join((kind, name, *rest))


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


US = [_city(number, line) for number, line in enumerate(_lines(_US_CITIES))] + [_place(p) for p in _lines(_US_AREAS)]
# What a gazetteer gives that knows the name and not the place.
AT_ZERO = [TAB.join(("3", "Springfield, United States", "US", "US", "", "0", "0", "1891"))]
TERRITORIES = [_place(line) for line in _lines(_TERRITORIES)]
ABROAD = [_place(line) for line in _lines(_ABROAD)]
NOWHERE = [TAB.join(("0", *[""] * 7))]


def _actor(code: str, name: str, country: str = "", kind: str = "", *, group: str = "", ethnic: str = "") -> str:
    return TAB.join((code, name, country, group, ethnic, "", "", kind, "", ""))


ACTORS: Sequence[str] = (
    _actor("", ""),
    _actor("USA", "UNITED STATES", "USA"),
    _actor("USAGOV", "WHITE HOUSE", "USA", "GOV"),
    _actor("USACOP", "CHICAGO POLICE", "USA", "COP"),
    _actor("GOV", "PRESIDENT", kind="GOV"),
    _actor("COP", "POLICE", kind="COP"),
    _actor("EDU", "SCHOOL", kind="EDU"),
    _actor("BUS", "COMPANY", kind="BUS"),
    _actor("JUD", "JUDGE", kind="JUD"),
    _actor("MED", "NEWSPAPER", kind="MED"),
    _actor("CVL", "RESIDENTS", kind="CVL"),
    _actor("ISR", "ISRAEL", "ISR"),
    _actor("GBR", "UNITED KINGDOM", "GBR"),
    _actor("CAN", "CANADA", "CAN"),
    _actor("MEX", "MEXICO", "MEX"),
    _actor("NAM", "NAMIBIA", "NAM"),
    _actor("IGOUNO", "UNITED NATIONS", kind="IGO", group="UNO"),
    _actor("nai", "NATIVE AMERICAN", ethnic="nai"),
    _actor("NA", "NA", ethnic="NA"),
)

# Code, its base and its root, quad class, Goldstein scale; the last is of no root that there is.
_EVENTS = """
010|010|01|1|0.0
012|012|01|1|-0.4
013|013|01|1|0.4
014|014|01|1|0.0
020|020|02|1|3.0
0231|023|02|1|3.4
036|036|03|1|4.0
037|037|03|1|5.0
040|040|04|1|1.0
042|042|04|1|1.9
043|043|04|1|2.8
046|046|04|1|7.0
051|051|05|1|3.4
057|057|05|1|8.0
061|061|06|2|6.4
071|071|07|2|7.4
0841|084|08|2|7.0
090|090|09|2|-2.0
100|100|10|3|-5.0
110|110|11|3|-2.0
111|111|11|3|-2.0
112|112|11|3|-2.0
120|120|12|3|-4.0
130|130|13|3|-4.4
141|141|14|3|-6.5
150|150|15|4|-7.2
160|160|16|4|-4.0
173|173|17|4|-5.0
1724|172|17|4|-5.0
180|180|18|4|-9.0
190|190|19|4|-10.0
193|193|19|4|-10.0
204|204|20|4|-10.0
2110|211|21|4|0.0
"""
EVENTS: Sequence[str] = tuple(line.replace("|", TAB) for line in _lines(_EVENTS))
# How often each root is met, in hundredths; of the last some in a thousand.
ROOT_WEIGHTS = {
    **dict(zip(map("{:02}".format, range(1, 11)), (11, 8, 7, 19, 11, 2, 3, 4, 4, 2), strict=True)),
    **dict(zip(map(str, range(11, 21)), (7, 3, 2, 2, 1, 2, 7, 3, 10, 0.5), strict=True)),
    "21": 0.2,
}
